"""Keeps answers of `classify` for feedback, joins feedback to them, and applies what it says.

Belongs to the agent's thread; what the answers say together is computed in the background.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from edge_agent.core.background import in_background
from edge_agent.core.clock import moment, timestamp
from edge_agent.core.codes import CommandError
from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.pipe import Finished
from edge_agent.core.score_map import ScoreMap
from edge_agent.core.strict_json import encode
from edge_agent.core.wording import shown
from edge_agent.learning.answers import AnswerTable, KeptAnswer
from edge_agent.learning.facts import TaskAccuracy
from edge_agent.learning.fitting import better_map_in_child
from edge_agent.learning.learned_maps import LearnedMaps
from edge_agent.learning.maths.assessment import Assessment, assess
from edge_agent.learning.maths.shares import upper_bound
from edge_agent.learning.students import UNREACHABLE, StudentChoice, Students
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.tasks import Task

log = logging.getLogger(__name__)

# Feedback that comes together is computed together.
ASSESS_AFTER_S = 1.0
# Without feedback: whether inputs have changed.
ASSESS_EVERY_ANSWERS = 200
# After a drop, an accuracy that these do not show to be lower is back.
_BACK_AFTER_AUDITS = 30
# Old answers are looked for after so many new ones.
_FORGET_EVERY = 50
_DAY_S = 86_400.0
# Of a page of answers: brokers are often set to take no more than some 100 kB.
_PAGE_BYTES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a caller says of an answer. reply_to: needed where several callers used the id.

    answer: the right label. is_correct: in place of it, whether the output was right.
    """

    id: str | int
    reply_to: str | None = None
    answer: str | None = None
    is_correct: bool | None = None


@dataclass(slots=True, eq=False)
class _Tracked:
    """A task under one definition and one model. basis: identifies these in the store.

    since: the number of the last answer before the audits that count. compared_rows: see Assessment.
    dropped_from: the accuracy before it fell; None = it has not, or is back.
    """

    task: Task
    config: ClassifyTask
    basis: str
    fitted: ScoreMap | None = None
    since: int = 0
    compared_rows: int = 0
    dropped_from: float | None = None
    facts: TaskAccuracy = field(default_factory=TaskAccuracy)
    kept: int = 0
    # When it is assessed next; None = nothing is new.
    due_at: float | None = 0.0

    def document(self) -> dict[str, Any]:
        """What outlives the process."""
        configured = self.task.score_map
        return {
            # What the map was fitted from, where the configuration says so.
            "configured": None if configured is None else configured.to_json(),
            "map": None if self.fitted is None else self.fitted.to_json(),
            "since": self.since,
            "compared_rows": self.compared_rows,
            "dropped_from": self.dropped_from,
        }

    def restore(self, document: Any) -> None:
        """Raises ValueError, TypeError or LookupError for a document that cannot be used."""
        if document["configured"] == self.document()["configured"]:
            self.compared_rows = int(document["compared_rows"])
            if document["map"] is not None:
                self.fitted = ScoreMap.from_json(document["map"], self.config.labels)
        self.since = int(document["since"])
        self.dropped_from = None if document["dropped_from"] is None else float(document["dropped_from"])


class Feedback:
    """weights_sha256: identifies the model in force."""

    def __init__(
        self,
        config: FeedbackConfig,
        tasks: Mapping[str, Task],
        table: AnswerTable,
        maps: LearnedMaps,
        students: Students,
        weights_sha256: str,
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._table = table
        self._students = students
        self._maps = maps
        self._weights_sha256 = weights_sha256
        # By definition.
        self._tracked: dict[str, _Tracked] = {}
        self._assessing: tuple[_Tracked, list[KeptAnswer], Future[Assessment]] | None = None
        self._random = random.SystemRandom()
        self._restore_tasks()

    def set_model(self, weights_sha256: str) -> None:
        self._weights_sha256, self._tracked = weights_sha256, {}
        self._restore_tasks()

    def reconfigure(self, config: FeedbackConfig, tasks: Mapping[str, Task]) -> None:
        self._config, self._tasks = config, tasks
        self._restore_tasks()

    def on_priors(self) -> None:
        """The map that feedback starts from may be another one: what was assessed under it is assessed again."""
        for tracked in self._tracked.values():
            tracked.due_at = 0.0

    def _restore_tasks(self) -> None:
        """Restores what is known of each task under this model. With feedback off, deletes what was kept."""
        before, self._tracked = self._tracked, {}
        if not self._config.enabled:
            self._maps.clear()
            self._table.forget_all()
            return
        for task in self._tasks.values():
            if not isinstance(task.config, ClassifyTask):
                continue
            tracked = before.get(task.definition)
            if tracked is None or tracked.config != task.config:
                tracked = self._restored(task, task.config)
            self._tracked[task.definition] = tracked
            self._forget_old(task)

    def _restored(self, task: Task, config: ClassifyTask) -> _Tracked:
        tracked = _Tracked(task, config, task.basis_for(self._weights_sha256))
        if (document := self._table.document(tracked.basis)) is not None:
            try:
                tracked.restore(document)
            except (ValueError, TypeError, LookupError) as error:
                log.warning("what is known from the feedback of task %s cannot be read: %s", task.name, error)
        self._maps.set_fitted(task, tracked.fitted)
        # Until the audits are assessed.
        self._maps.set_min_score(task, None if config.min_accuracy is None else UNREACHABLE)
        return tracked

    def _forget_old(self, task: Task) -> None:
        before = moment(time.monotonic()).wall_s - self._config.days * _DAY_S
        self._table.forget(task.name, keep=self._config.keep, before_wall_s=before)

    def keep(
        self,
        request: Request,
        event: Finished,
        output: Any,
        now: float,
        *,
        value: Any = None,
        choice: StudentChoice | None = None,
        student_answer: Finished | None = None,
    ) -> bool:
        """Keeps an answer. True = the caller is to be asked whether it is right.

        event: with the model's own scores. output: what the caller gets. value: the input, where inputs are kept.
        choice, student_answer: what a student did before.
        """
        assert request.task is not None
        config, wall_s = request.task.config, moment(now).wall_s
        if not isinstance(config, ClassifyTask):
            return False
        # A bare output has no room for the question.
        may_be_audit = self._config.enabled and request.error_topic is None
        is_audit = may_be_audit and self._random.random() < config.audit_rate
        is_audit_of_student = self._students.keep(
            request, event, output, wall_s, value=value, choice=choice, student_answer=student_answer, is_audit=is_audit
        )
        tracked = self._tracked.get(request.task.definition)
        if tracked is None or event.scores is None or request.answerer != LARGE:
            return is_audit_of_student
        answer = KeptAnswer(
            id=json.dumps(request.id),
            reply_topic=request.reply_topic,
            wall_s=wall_s,
            scores={label: round(score, 9) for label, score in event.scores.items()},
            tokens=event.prompt_tokens,
            is_audit=is_audit,
            input=None if value is None else encode(value),
            output=output,
        )
        self._table.keep(tracked.task.name, tracked.basis, answer)
        tracked.kept += 1
        if tracked.kept % _FORGET_EVERY == 0:
            self._forget_old(tracked.task)
        if tracked.kept % ASSESS_EVERY_ANSWERS == 0:
            tracked.due_at = 0.0
        return is_audit

    def _classify_task(self, name: str) -> Task:
        """Raises CommandError(unknown_task)."""
        task = self._tasks.get(name)
        if task is None or not isinstance(task.config, ClassifyTask):
            allowed = [one for one, task in self._tasks.items() if isinstance(task.config, ClassifyTask)]
            words = ", ".join(allowed) or "none"
            raise CommandError("unknown_task", f"task: should be one of kind classify: {words} (got {shown(name)})")
        return task

    def export(self, name: str, *, after: int, limit: int) -> dict[str, Any]:
        """A page of a task's kept answers under its definition and the model in force, without inputs and ids.

        It ends early where it would be longer than a message should be. Raises CommandError.
        """
        if not self._config.enabled:
            raise CommandError("not_enabled", "feedback.enabled is false on this board: it keeps no answers")
        task = self._classify_task(name)
        tracked = self._tracked[task.definition]
        kept = self._table.of(tracked.basis, tracked.config.labels, after=after, limit=limit)
        page: list[dict[str, Any]] = []
        nbytes = 0
        for one in kept:
            entry = _exported(one)
            nbytes += len(encode(entry))
            if page and nbytes > _PAGE_BYTES:
                break
            page.append(entry)
        maps = {"map": self._maps.in_force(task), "prior": self._maps.prior_map(task)}
        return {
            "task": name,
            "definition": task.definition,
            "model": self._weights_sha256,
            **{key: None if one is None else one.to_json() for key, one in maps.items()},
            "since": tracked.since,
            "next": page[-1]["number"] if page else None,
            "answers": page,
        }

    def mark(self, name: str, mark: Mark, now: float) -> dict[str, Any]:
        """Takes feedback on an answer of this task; gives the data of its result. Raises CommandError."""
        self._classify_task(name)
        found = self._find(name, mark)
        _, kept = found[0]
        label = _label(kept, mark)
        for basis, one in found:
            self._table.mark(one.number, label)
            self._students.on_feedback(basis)
            for tracked in self._tracked.values():
                if tracked.basis == basis:
                    tracked.due_at = tracked.due_at or now + ASSESS_AFTER_S
        return {"task": name, "output": kept.output, "answer": label, "is_right": label == kept.output}

    def _find(self, name: str, mark: Mark) -> list[tuple[str, KeptAnswer]]:
        """The newest answer that is meant, with its basis: the model's, or a student's, or both to one request."""
        names = [name, *filter(None, [self._students.name_in_store(name)])]
        found = [pair for one in names for pair in self._table.find(one, json.dumps(mark.id))]
        if mark.reply_to is not None:
            found = [(basis, one) for basis, one in found if one.reply_topic == mark.reply_to]
        if not found:
            limits = f"only the newest {self._config.keep} of each task are, for {self._config.days:g} days"
            raise CommandError("not_found", f"id: no answer with this id is kept; {limits} (got {shown(mark.id)})")
        if len({one.reply_topic for _, one in found}) > 1:
            raise CommandError("ambiguous", "reply_to: required, because several callers used this id")
        newest = max(one.wall_s for _, one in found)
        return [(basis, one) for basis, one in found if one.wall_s == newest]

    def tick(self, now: float) -> dict[str, Any] | None:
        """To be called several times a second. Gives the document of an `event/recalibration`, if there is one."""
        event = None
        if self._assessing is not None:
            tracked, answers, found = self._assessing
            if not found.done():
                return None
            self._assessing = None
            if self._tracked.get(tracked.task.definition) is tracked:
                if (error := found.exception()) is None:
                    event = self._apply(tracked, answers, found.result())
                else:
                    log.error("the feedback of task %s cannot be used: %s", tracked.task.name, error)
        due = [(one.due_at, one) for one in self._tracked.values() if one.due_at is not None and now >= one.due_at]
        if due:
            _, first = min(due, key=lambda pair: pair[0])
            first.due_at = None
            self._begin(first)
        return event

    def _begin(self, tracked: _Tracked) -> None:
        config = tracked.config
        kept = self._table.of(tracked.basis, config.labels)
        base = self._maps.known_map(tracked.task) or ScoreMap.identity(config.labels)
        work = partial(
            assess,
            [replace(one, is_audit=one.is_audit and one.number > tracked.since) for one in kept],
            better_map=better_map_in_child,
            current=tracked.fitted or base,
            base=base,
            compared_rows=tracked.compared_rows,
            min_accuracy=config.min_accuracy,
            confidence=config.confidence,
        )
        self._assessing = tracked, kept, in_background("feedback", work)

    def _apply(self, tracked: _Tracked, kept: list[KeptAnswer], found: Assessment) -> dict[str, Any] | None:
        task, config = tracked.task, tracked.config
        before = tracked.document()
        if found.has_new_map:
            tracked.fitted = found.map
            self._maps.set_fitted(task, found.map)
        tracked.compared_rows = found.compared_rows
        if found.dropped_from is not None:
            # What was audited before says nothing of what comes: it trains from now on.
            tracked.since, tracked.dropped_from, tracked.compared_rows = kept[-1].number, found.dropped_from, 0
            tracked.due_at = 0.0
        elif tracked.dropped_from is not None and found.audits >= _BACK_AFTER_AUDITS:
            is_back = upper_bound(found.right, found.audits, config.confidence) >= tracked.dropped_from
            tracked.dropped_from = None if is_back else tracked.dropped_from
        if config.min_accuracy is not None:
            self._maps.set_min_score(task, found.promise.threshold if found.promise else UNREACHABLE)
        since = next((one for one in kept if one.number > tracked.since), None)
        tracked.facts = TaskAccuracy(
            given=found.given,
            accuracy=found.right / found.audits if found.audits else None,
            lower_bound=found.lower_bound,
            asked=found.asked,
            audits=found.audits,
            feedback=tracked.compared_rows,
            promised=config.min_accuracy if found.promise else None,
            is_unproven=config.min_accuracy is not None and found.promise is None,
            since=None if since is None else timestamp(since.wall_s),
            dropped_from=tracked.dropped_from,
            shift=found.shift,
        )
        if tracked.document() != before:
            self._table.set_document(tracked.basis, task.name, tracked.document())
        has_dropped = found.dropped_from is not None
        if found.has_new_map or has_dropped:
            log.info("recalibrated task=%s new_map=%s has_dropped=%s", task.name, found.has_new_map, has_dropped)
            return {
                "task": task.name,
                "new_map": found.has_new_map,
                "has_dropped": has_dropped,
                "feedback": found.compared_rows,
                "audits": found.audits,
            }
        return None

    def facts(self) -> dict[str, TaskAccuracy]:
        """By task, for health and the alarms; none while feedback is off."""
        # Their students answer, whatever the large model may promise.
        alone = {name for name, one in self._students.facts().items() if one.promised is not None}
        return {
            name: replace(tracked.facts, is_unproven=tracked.facts.is_unproven and name not in alone)
            for tracked in self._tracked.values()
            for name in [tracked.task.name]
        }


def _label(kept: KeptAnswer, mark: Mark) -> str | None:
    """The right label, None = another than the output. Raises CommandError."""
    if mark.answer is not None:
        if mark.answer not in kept.scores:
            words = ", ".join(kept.scores)
            raise CommandError("bad_field", f"answer: should be one of {words} (got {shown(mark.answer)})")
        return mark.answer
    if kept.output is None:
        raise CommandError("bad_field", "correct: the reply had no output; send the right label as `answer`")
    if mark.is_correct:
        return kept.output
    others = [label for label in kept.scores if label != kept.output]
    return others[0] if len(others) == 1 else None


def _exported(kept: KeptAnswer) -> dict[str, Any]:
    fields = ("number", "scores", "output", "label", "is_marked", "is_audit")
    return {"at": timestamp(kept.wall_s), **{name: getattr(kept, name) for name in fields}}
