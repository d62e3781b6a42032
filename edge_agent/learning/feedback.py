"""Keeps answers of `classify` for feedback, joins feedback to them, and applies what it says.

Belongs to the agent's thread; what the answers say together is computed in the background.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from pydantic import StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from edge_agent.commands.fields import CommandFields
from edge_agent.core.clock import timestamp
from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.labelled import label_of
from edge_agent.core.model import Model
from edge_agent.core.pipe import EngineRequest, Failed, Finished
from edge_agent.core.score_map import ScoreMap
from edge_agent.core.strict_json import encode, number_of
from edge_agent.core.wording import shown
from edge_agent.learning.answers import AnswerTable, KeptAnswer, again_store_name
from edge_agent.learning.audited import AuditedTask, AuditedTasks
from edge_agent.learning.facts import TaskAccuracy
from edge_agent.learning.fitting import better_map_in_child
from edge_agent.learning.learned_maps import LearnedMaps
from edge_agent.learning.maths.assessment import MIN_ANSWERED, Assessment, Tested, assess
from edge_agent.learning.maths.calibration import judged_counts
from edge_agent.learning.maths.shares import upper_bound
from edge_agent.learning.students import UNREACHABLE, Students
from edge_agent.learning.trial import answered_again, unused_audits
from edge_agent.requests.answerers import AnswererEvent
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.tasks import Task

log = logging.getLogger(__name__)

# Feedback that arrives within this time is assessed together.
ASSESS_AFTER_S = 1.0
# Also without feedback, to notice that inputs have changed.
ASSESS_EVERY_ANSWERS = 200
# After a drop, the accuracy has recovered if this many new audits do not show that it is lower.
_BACK_AFTER_AUDITS = 30
# The most bytes in a page of answers, because brokers are often set to accept no more than about 100 kB.
_PAGE_BYTES = 100_000


class Mark(CommandFields):
    """What a caller says about an answer."""

    id: StrictStr | StrictInt
    reply_to: StrictStr | None = None  # Required where several callers used the id.
    answer: StrictStr | StrictInt | StrictFloat | None = None  # The right label, or the true number.
    correct: StrictBool | None = None  # Whether the output was right, instead of the label.

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.answer is None) == (self.correct is None):
            raise ValueError("should have one of `answer` and `correct`")
        return self


@dataclass(slots=True, eq=False)
class _FeedbackTask(AuditedTask):
    fitted: ScoreMap | None = None
    compared_rows: int = 0  # How many rows of feedback there were when the map was last compared with a new fit.
    dropped_from: float | None = None  # The accuracy before it fell; None if it has not fallen, or has recovered.
    dropped_to: tuple[int, int] | None = None  # See TaskAccuracy; None also where an earlier version noticed the drop.
    promised: float | None = None  # What the latest assessment proved.
    tested: Tested | None = None
    facts: TaskAccuracy = field(default_factory=TaskAccuracy)

    def document(self) -> dict[str, Any]:
        """What outlives the process."""
        configured = self.task.score_map
        return {
            # The configured map, because `restore` takes no map that was fitted from another one.
            "configured": None if configured is None else configured.to_json(),
            "map": None if self.fitted is None else self.fitted.to_json(),
            "since": self.since,
            "compared_rows": self.compared_rows,
            "dropped_from": self.dropped_from,
            "dropped_to": self.dropped_to,
            "promised": self.promised,
            "tested": None if self.tested is None else [self.tested.evidence, self.tested.threshold],
        }

    def restore(self, document: Any) -> None:
        """Raises ValueError, TypeError or LookupError for a document that cannot be used."""
        if document["configured"] == self.document()["configured"]:
            self.compared_rows = int(document["compared_rows"])
            if document["map"] is not None:
                self.fitted = ScoreMap.from_json(document["map"], self.config.labels)
        self.since = int(document["since"])
        self.dropped_from = None if document["dropped_from"] is None else float(document["dropped_from"])
        # Earlier versions did not record these.
        if (dropped_to := document.get("dropped_to")) is not None:
            right, audits = map(int, dropped_to)
            self.dropped_to = right, audits
        self.promised = number_of(document.get("promised"))
        if (tested := document.get("tested")) is not None:
            evidence, threshold = tested
            self.tested = Tested(str(evidence), number_of(threshold))


class Feedback(AuditedTasks[_FeedbackTask]):
    """Feedback on the answers of the model in force."""

    def __init__(
        self,
        config: FeedbackConfig,
        tasks: Mapping[str, Task],
        table: AnswerTable,
        maps: LearnedMaps,
        students: Students,
        model: Model,
    ) -> None:
        super().__init__(config, table)
        self._tasks = tasks
        self._students = students
        self._maps = maps
        self._promised: dict[str, float | None] = {}  # By task, what the last event said, also under an earlier model.
        self.set_model(model)

    def set_model(self, model: Model) -> None:
        self._weights_sha256, self._held_out, self._tracked = model.weights_sha256, model.held_out, {}
        # The new model does not wait for what is computed about the one before.
        self._assessing = None
        self._restore_tasks()

    def reconfigure(self, config: FeedbackConfig, tasks: Mapping[str, Task]) -> None:
        self._config, self._tasks = config, tasks
        self._restore_tasks()
        for tracked in self._tracked.values():
            tracked.due_at = 0.0

    def on_priors(self) -> None:
        """Assesses all tasks again, because the map that fits start from may have changed."""
        for tracked in self._tracked.values():
            tracked.due_at = 0.0

    def _restore_tasks(self) -> None:
        """Restores what is known about each task under this model. With feedback off, deletes what was kept."""
        before, self._tracked = self._tracked, {}
        if not self._config.enabled:
            self._promised.clear()
            self._maps.clear()
            self._table.forget_all()
            return
        for name, task in self._tasks.items():
            if not isinstance(task.config, ClassifyTask):
                continue
            tracked = before.get(name)
            if tracked is None or tracked.task.definition != task.definition or tracked.config != task.config:
                tracked = self._restore_task(task, task.config)
            self._tracked[name] = tracked
            self._forget_old(tracked)

    def _restore_task(self, task: Task, config: ClassifyTask) -> _FeedbackTask:
        tracked = _FeedbackTask(task, config, task.basis_for(self._weights_sha256), task.name)
        if (document := self._table.load_state(tracked.basis)) is not None:
            try:
                tracked.restore(document)
            except (ValueError, TypeError, LookupError) as error:
                log.warning("what is known from the feedback of task %s cannot be read: %s", task.name, error)
        if self._weights_sha256:  # The placeholder for a model that does not open promises nothing.
            self._promised.setdefault(task.name, tracked.promised)
        self._maps.set_fitted(task, tracked.fitted)
        # Until the audits are assessed.
        self._maps.set_min_score(task, None if config.min_accuracy is None else UNREACHABLE)
        return tracked

    def keep(
        self, request: Request, event: Finished, output: Any, wall_s: float, value: Any, *, is_audit: bool
    ) -> bool:
        """Keeps an answer of the large model; returns whether its caller may be asked if it is right.

        `event` has the model's own scores. `output` is what the caller gets. `value` is the input, None if not kept.
        """
        tracked = self._find_tracked(request.task)
        if tracked is None or event.scores is None or request.answerer != LARGE:
            return False
        self._keep(tracked, request, event, output, wall_s, value, is_audit=is_audit)
        if tracked.kept_count % ASSESS_EVERY_ANSWERS == 0:
            tracked.due_at = 0.0
        return True

    def trial_requests(self, model: Model) -> Iterator[EngineRequest]:
        """What this model is asked before it is in force."""
        tasks = []
        for name, tracked in self._tracked.items():
            # A student leaves only some of the inputs to the large model, and each student leaves others.
            has_student = self._students.name_in_store(name) is not None or model.answerer_of(name) is not None
            if (learnt := model.learnt_from.get(name)) is not None and not has_student:
                newest_s = self._table.newest_wall_s(tracked.task.basis_for(model.weights_sha256))
                answers = self._table.asked_or_marked(tracked.basis)
                newer = [answer for answer in answers if answer.number > tracked.since and answer.wall_s > newest_s]
                if (gap := self._table.gap(tracked.store_name)) is not None:
                    # With those after it, they would be no fair sample.
                    newer = [answer for answer in newer if answer.number < gap]
                tasks.append((tracked.task, newer, learnt))
        return unused_audits(tasks)

    def keep_trial(self, model: Model, events: Sequence[Finished | Failed]) -> None:
        for tracked in self._tracked.values() if events else ():
            name, basis = again_store_name(tracked.task.name), tracked.task.basis_for(model.weights_sha256)
            again = answered_again(self._table.asked_or_marked(tracked.basis), events, tracked.config)
            for answer in again:
                self._table.keep(name, basis, answer)
            self._forget_old(tracked, name)
            log.info("task %s: the new model has answered %d earlier audits", tracked.task.name, len(again))

    def _classify_task(self, name: str) -> Task:
        """Raises CommandError(unknown_task)."""
        task = self._tasks.get(name)
        if task is None or not isinstance(task.config, ClassifyTask):
            words = ", ".join(name for name, task in self._tasks.items() if task.config.takes_feedback) or "none"
            raise CommandError(
                CommandCode.UNKNOWN_TASK, f"task: should be one that takes feedback: {words} (got {shown(name)})"
            )
        return task

    def export(self, name: str, *, after: int, limit: int) -> dict[str, Any]:
        """A page of a task's kept answers under its definition and the model in force, without inputs and ids.

        Feedback must be enabled. Raises CommandError.
        """
        task = self._classify_task(name)
        tracked = self._tracked[name]
        kept = self._table.answers_for(tracked.basis, tracked.config.labels, after=after, limit=limit)
        maps = {"map": self._maps.in_force(task), "prior": self._maps.known.prior_map(task)}
        facts = {
            "task": name,
            "kind": tracked.config.kind,
            "definition": task.definition,
            "model": self._weights_sha256,
            "min_score": tracked.config.min_score,
            "min_accuracy": tracked.config.min_accuracy,
            "confidence": tracked.config.confidence,
            "held_out": self._held_out_for(tracked),
            "earlier": self._table.count_again(tracked.basis, name, after=tracked.since),
            **{key: None if map_ is None else map_.to_json() for key, map_ in maps.items()},
            "since": tracked.since,
            "is_overdue": tracked.is_overdue,
        }
        return page_of(facts, kept, _exported)

    def mark(self, name: str, mark: Mark, now: float) -> dict[str, Any]:
        """Takes feedback on an answer of this task; gives the data of its result. Raises CommandError."""
        self._classify_task(name)
        matches = self._find(name, mark)
        _, kept = matches[0]
        label = _label(kept, mark)
        for basis, answer in matches:
            self._table.set_label(answer.number, label, mark.by)
            self._students.on_feedback(basis)
            for tracked in self._tracked.values():
                if tracked.basis == basis:
                    tracked.audit_counts = None
                    tracked.due_at = tracked.due_at or now + ASSESS_AFTER_S
        is_right = None if kept.output is None else label == kept.output
        return {"task": name, "output": kept.output, "answer": label, "is_right": is_right}

    def _find(self, name: str, mark: Mark) -> list[tuple[str, KeptAnswer]]:
        """The newest answer that is meant, with its basis; several if more than one model answered."""
        names = [name, again_store_name(name), *filter(None, [self._students.name_in_store(name)])]
        matches = [match for name in names for match in self._table.find(name, json.dumps(mark.id))]
        if mark.reply_to is not None:
            matches = [(basis, answer) for basis, answer in matches if answer.reply_topic == mark.reply_to]
        if not matches:
            limits = f"only the newest {self._config.keep} of each task are, for {self._config.days:g} days"
            raise CommandError(
                CommandCode.NOT_FOUND, f"id: no answer with this id is kept; {limits} (got {shown(mark.id)})"
            )
        if len({answer.reply_topic for _, answer in matches}) > 1:
            raise CommandError(CommandCode.AMBIGUOUS, "reply_to: required, because several callers used this id")
        newest = max(answer.wall_s for _, answer in matches)
        return [(basis, answer) for basis, answer in matches if answer.wall_s == newest]

    def _assessment(self, tracked: _FeedbackTask) -> tuple[list[KeptAnswer], Callable[[], Assessment]]:
        config = tracked.config
        kept = self._table.answers_for(tracked.basis, config.labels)
        self._notice_overdue(tracked, kept)
        base = self._maps.known.in_force(tracked.task) or ScoreMap.identity(config.labels)
        current = tracked.fitted or base
        work = partial(
            assess,
            [replace(answer, is_audit=answer.is_audit and answer.number > tracked.since) for answer in kept],
            current=current,
            min_accuracy=config.min_accuracy,
            confidence=config.confidence,
            better_map=partial(better_map_in_child, current=current, base=base),
            compared_rows=tracked.compared_rows,
            held_out=judged_counts(self._held_out_for(tracked)),
            is_overdue=tracked.is_overdue,
            min_score=config.min_score,
            tested=tracked.tested,
            drift_answers=self._config.drift_answers,
        )
        return kept, work

    def _held_out_for(self, tracked: _FeedbackTask) -> Sequence[tuple[float, int, int]]:
        """By score, the rows that training held out; none where they say nothing about the answers now.

        Their scores are the model's own, and a drop of the accuracy says that they are no longer true.
        """
        current = tracked.fitted or self._maps.known.in_force(tracked.task)
        is_own = current in (None, ScoreMap.identity(tracked.config.labels))
        is_refuted = tracked.since or self._table.load_state(self._refuted_key(tracked)) not in (None, tracked.basis)
        return () if is_refuted or not is_own else self._held_out.get(tracked.task.name, ())

    def _refuted_key(self, tracked: _FeedbackTask) -> str:
        """Where the store has the basis under which audits refuted the rows that training held out.

        They stay refuted under another definition, because that does not change what a trained model answers.
        """
        return f"{self._weights_sha256}/{tracked.task.name}/refuted"

    def _note_refuted(self, tracked: _FeedbackTask, *, is_refuted: bool) -> None:
        key, basis = self._refuted_key(tracked), tracked.basis if is_refuted else None
        if (known := self._table.load_state(key)) in (None, tracked.basis) and known != basis:
            self._table.save_state(key, tracked.task.name, basis)

    def _apply(self, tracked: _FeedbackTask, kept: list[KeptAnswer], assessment: Assessment) -> list[AnswererEvent]:
        task, config = tracked.task, tracked.config
        before, was_unproven, was_promised = tracked.document(), tracked.facts.is_unproven, tracked.promised
        counted_rows = self._held_out_for(tracked)
        if assessment.has_new_map:
            tracked.fitted = assessment.map
            self._maps.set_fitted(task, assessment.map)
        tracked.compared_rows = assessment.compared_rows
        if (drop := assessment.drop) is not None:
            # Audits from before the drop say nothing about the accuracy now, so they train instead of measuring.
            tracked.audit_counts = None
            tracked.since, tracked.dropped_from, tracked.compared_rows = kept[-1].number, drop.before, 0
            tracked.dropped_to = drop.right, drop.audits
            tracked.due_at = 0.0
        elif tracked.dropped_from is not None and len(newest := assessment.newest) >= _BACK_AFTER_AUDITS:
            is_back = upper_bound(sum(newest), len(newest), config.confidence) >= tracked.dropped_from
            tracked.dropped_from = None if is_back else tracked.dropped_from
        if tracked.since or counted_rows:
            self._note_refuted(tracked, is_refuted=bool(tracked.since) or not assessment.held_out)
        if config.min_accuracy is not None:
            self._maps.set_min_score(task, assessment.promise.threshold if assessment.promise else UNREACHABLE)
        # Older answers with feedback may be kept, too, but not the audits of their time.
        counted = [answer for answer in kept if answer.number > tracked.since]
        since = next((answer for answer in counted if answer.is_audit), next(iter(counted), None))
        tracked.facts = TaskAccuracy(
            given=assessment.given,
            accuracy=assessment.right / assessment.audits if assessment.audits else None,
            lower_bound=assessment.lower_bound,
            asked=assessment.asked,
            audits=assessment.audits,
            earlier=self._table.count_again(tracked.basis, task.name, after=tracked.since),
            held_out=assessment.held_out,
            held_out_right=assessment.held_out_right,
            feedback=tracked.compared_rows,
            promised=config.min_accuracy if assessment.promise else None,
            is_unproven=config.min_accuracy is not None and assessment.promise is None,
            since=None if since is None else timestamp(since.wall_s),
            until=_newest_audit_time(counted),
            dropped_from=tracked.dropped_from,
            dropped_to=tracked.dropped_to,
            dropped_until=_newest_audit_time(answer for answer in kept if answer.number <= tracked.since),
            shift=assessment.shift,
        )
        tracked.promised, tracked.tested = tracked.facts.promised, assessment.tested
        events = self._promise_events(tracked, was_promised)
        if tracked.facts.is_unproven and not was_unproven:
            words = "no answer is given until audits prove it"
            level = logging.WARNING if events else logging.INFO
            log.log(level, "task %s: min_accuracy = %g is not proven: %s", task.name, config.min_accuracy, words)
        if tracked.document() != before:
            self._table.save_state(tracked.basis, task.name, tracked.document())
        has_dropped = drop is not None
        if assessment.has_new_map or has_dropped:
            log.info("recalibrated task=%s new_map=%s has_dropped=%s", task.name, assessment.has_new_map, has_dropped)
            recalibration = {
                "task": task.name,
                "new_map": assessment.has_new_map,
                "has_dropped": has_dropped,
                "feedback": assessment.compared_rows,
                "audits": assessment.audits,
            }
            events.append(("recalibration", recalibration))
        return events

    def _promise_events(self, tracked: _FeedbackTask, was_promised: float | None) -> list[AnswererEvent]:
        """The event that a promise begins or ends, also by a switch; none if `min_accuracy` was removed.

        `was_promised` is what the assessment before proved, for this definition and this model.
        """
        name, facts = tracked.task.name, tracked.facts
        if facts.promised == self._promised.get(name):
            return []
        before, self._promised[name] = self._promised.get(name), facts.promised
        if tracked.config.min_accuracy is None:
            return []
        audits = {"asked": facts.asked, "audits": facts.audits, "held_out": facts.held_out}
        if facts.promised is not None:
            return [("promise-proven", {"task": name, "promised": facts.promised, **audits})]
        if was_promised != tracked.config.min_accuracy:
            why = "changed"
        else:
            why = "audits" if facts.audits >= MIN_ANSWERED * facts.asked else "unanswered"
        return [("promise-lost", {"task": name, "promised": before, "why": why, **audits})]

    def facts(self) -> dict[str, TaskAccuracy]:
        # Tasks with a proven student give answers, whatever the large model may promise.
        alone = {name for name, student in self._students.facts().items() if student.promised is not None}
        return {
            name: replace(tracked.facts, is_unproven=tracked.facts.is_unproven and name not in alone)
            for name, tracked in self._tracked.items()
        }


def find_marked(table: AnswerTable, config: FeedbackConfig, names: Iterable[str], mark: Mark) -> KeptAnswer:
    """The newest answer that is meant, of those kept under these names in the store. Raises CommandError."""
    matches = [
        answer
        for name in names
        for _, answer in table.find(name, json.dumps(mark.id))
        if mark.reply_to in (None, answer.reply_topic)
    ]
    if not matches:
        limits = f"only the newest {config.keep} of each task are, for {config.days:g} days"
        raise CommandError(
            CommandCode.NOT_FOUND, f"id: no answer with this id is kept; {limits} (got {shown(mark.id)})"
        )
    if len({answer.reply_topic for answer in matches}) > 1:
        raise CommandError(CommandCode.AMBIGUOUS, "reply_to: required, because several callers used this id")
    return max(matches, key=lambda answer: answer.number)


def _label(kept: KeptAnswer, mark: Mark) -> str | None:
    """The right label; None if it is only known that the output, or each label, is wrong. Raises CommandError."""
    if mark.answer is not None:
        label = label_of(mark.answer, tuple(kept.scores)) or _ignoring_case(mark.answer, kept.scores)
        if label is None:
            words = ", ".join(kept.scores)
            raise CommandError(CommandCode.BAD_FIELD, f"answer: should be one of {words} (got {shown(mark.answer)})")
        return label
    if kept.output is None:
        if kept.is_audit and not mark.correct:
            return None  # It may be a new fault. As an open audit, it would end a promise without counting as wrong.
        raise CommandError(CommandCode.BAD_FIELD, "correct: the reply had no output; send the right label as `answer`")
    if mark.correct:
        return kept.output
    others = [label for label in kept.scores if label != kept.output]
    return others[0] if len(others) == 1 else None


def _ignoring_case(answer: object, labels: Iterable[str]) -> str | None:
    """The label that somebody typed, unless several labels differ only by case."""
    same = [label for label in labels if isinstance(answer, str) and label.casefold() == answer.strip().casefold()]
    return same[0] if len(same) == 1 else None


def _newest_audit_time(answers: Iterable[KeptAnswer]) -> str | None:
    """When the newest answered audit was asked; None without any."""
    asked = [answer.wall_s for answer in answers if answer.is_audit and answer.is_marked]
    return timestamp(max(asked)) if asked else None


def page_of(
    facts: dict[str, Any], kept: Sequence[KeptAnswer], as_entry: Callable[[KeptAnswer], dict[str, Any]]
) -> dict[str, Any]:
    """A page of an export with these facts. It ends early where it would be longer than a message should be."""
    page: list[dict[str, Any]] = []
    nbytes = len(encode(facts))
    for answer in kept:
        entry = as_entry(answer)
        nbytes += len(encode(entry))
        if page and nbytes > _PAGE_BYTES:
            break
        page.append(entry)
    return {**facts, "next": page[-1]["number"] if page else None, "answers": page}


def _exported(kept: KeptAnswer) -> dict[str, Any]:
    fields = ("number", "scores", "output", "label", "is_marked", "is_audit", "is_refused")
    return {"at": timestamp(kept.wall_s), **{name: getattr(kept, name) for name in fields}, "by": kept.marked_by}
