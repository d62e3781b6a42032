"""From which score on a student answers alone: proven by audits of its answers.

An audit is judged by the large model, which answers the request, too; of a task with `min_accuracy` by its caller.
Belongs to the agent's thread; what the audits say together is computed in the background.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge_agent.accuracy.assessment import Answer, Assessment, assess
from edge_agent.accuracy.score_map import ScoreMap
from edge_agent.core.background import in_background
from edge_agent.core.config import ClassifyTask, FeedbackConfig
from edge_agent.core.model import Model
from edge_agent.core.pipe import NEVER, Finished
from edge_agent.core.strict_json import encode
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task
from edge_agent.store.answers import AnswerTable, KeptAnswer

log = logging.getLogger(__name__)

# Of the requests that a proven student is asked: the large model answers them, too.
AUDIT_SHARE = 0.02
# What is known is computed again after so many new audits.
ASSESS_EVERY = 25
# Older ones are forgotten.
_KEEP = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFacts:
    """What health says of a student's task. None = unknown.

    share: of its requests that the student answered, since the agent's start. audits: of its answers.
    accuracy: the share of these that are right. least_score: from which the student answers alone.
    """

    student: str
    share: float | None
    accuracy: float | None
    lower_bound: float | None
    audits: int
    promised: float | None
    least_score: float | None


@dataclass(slots=True, eq=False)
class _Tracked:
    """A task, its student and the large model. basis: identifies the three in the store. key: the task's name there.

    is_judged_by_callers: else by the large model. asked, answered: requests that it was asked, and answered alone.
    fresh: audits since the latest assessment. since: the number of the last audit before the accuracy dropped.
    found: what is known, None = nothing yet.
    """

    task: Task
    config: ClassifyTask
    student: str
    basis: str
    key: str
    since: int = 0
    asked: int = 0
    answered: int = 0
    fresh: int = ASSESS_EVERY
    found: Assessment | None = None

    @property
    def is_judged_by_callers(self) -> bool:
        return self.config.min_accuracy is not None

    @property
    def target(self) -> float:
        return self.config.agree if self.config.min_accuracy is None else self.config.min_accuracy

    @property
    def least_score(self) -> float:
        return NEVER if self.found is None or self.found.promise is None else self.found.promise.threshold


class StudentThresholds:
    """All tasks with a student."""

    def __init__(self, config: FeedbackConfig, tasks: Mapping[str, Task], table: AnswerTable) -> None:
        self._config = config
        self._tasks = tasks
        self._table = table
        self._model: Model | None = None
        self._students: Mapping[str, str] = {}
        # By name.
        self._tracked: dict[str, _Tracked] = {}
        self._assessing: tuple[_Tracked, int, Future[Assessment]] | None = None
        self._random = random.SystemRandom()

    def set_students(self, model: Model, students: Mapping[str, str]) -> None:
        """The model in force and its students, by task. What earlier processes found of them holds again."""
        self._model, self._students = model, students
        self._track()

    def reconfigure(self, config: FeedbackConfig, tasks: Mapping[str, Task]) -> None:
        self._config, self._tasks = config, tasks
        self._track()

    def _track(self) -> None:
        before, self._tracked = self._tracked, {}
        for name, student in self._students.items():
            task = self._tasks.get(name)
            if task is None or not isinstance(task.config, ClassifyTask):
                continue
            tracked = before.get(name)
            basis = self._basis(task, task.config, student)
            if tracked is None or tracked.basis != basis or tracked.config != task.config:
                tracked = _Tracked(task, task.config, student, basis, key=f"{name}/{student}")
                document = self._table.document(basis)
                tracked.since = document if isinstance(document, int) else 0
            if self._config.enabled or not tracked.is_judged_by_callers:
                self._tracked[name] = tracked

    def _basis(self, task: Task, config: ClassifyTask, student: str) -> str:
        assert self._model is not None
        [sha256] = (one.sha256 for one in self._model.students if one.name == student)
        judge = "callers" if config.min_accuracy is not None else task.basis_for(self._model.weights_sha256)
        return hashlib.sha256(f"{task.definition}\n{sha256}\n{judge}".encode()).hexdigest()[:16]

    def least_score(self, task: Task) -> float | None:
        """For a request of this task: from which score on the student's answer stands; None = it has no student.

        Some requests are drawn for audits by the large model.
        """
        tracked = self._tracked.get(task.name)
        if tracked is None or tracked.task.definition != task.definition:
            return None
        is_drawn = not tracked.is_judged_by_callers and self._random.random() < AUDIT_SHARE
        return NEVER if is_drawn else tracked.least_score

    def name_in_store(self, task: str) -> str | None:
        """The name of its answers in the store; None = the task has no student."""
        tracked = self._tracked.get(task)
        return None if tracked is None else tracked.key

    def keep(self, request: Request, event: Finished, output: Any, wall_s: float, *, is_audit: bool) -> bool:
        """Keeps a student's answer. True = its caller is to be asked whether it is right.

        output: what the caller gets. is_audit: this reply is drawn for an audit by its caller.
        """
        tracked = self._tracked.get(request.task_name)
        if tracked is None or request.run is None or request.run.student_least is None:
            return False
        tracked.asked += 1
        student = event.student
        if student is None or student.name != tracked.student:
            return False
        tracked.answered += student.stands
        is_audit = is_audit and tracked.is_judged_by_callers
        # Others that the student passed on are no random sample.
        is_judged = not tracked.is_judged_by_callers and request.run.student_least == NEVER
        if is_judged or is_audit or (student.stands and self._config.enabled):
            answer = KeptAnswer(
                # Where no feedback is taken, they serve nothing.
                id=json.dumps(request.id) if self._config.enabled else "",
                reply_topic=request.reply_topic if self._config.enabled else "",
                wall_s=wall_s,
                scores={label: round(score, 9) for label, score in student.scores.items()},
                tokens=event.prompt_tokens,
                is_audit=is_judged or is_audit,
                input=None if request.input is None or not student.stands else encode(request.input),
                output=output,
                is_marked=is_judged,
                label=output if is_judged else None,
            )
            self._table.keep(tracked.key, tracked.basis, answer)
            tracked.fresh += is_judged
        return is_audit

    def on_feedback(self, basis: str) -> None:
        """A caller has judged an answer."""
        for tracked in self._tracked.values():
            if tracked.basis == basis:
                tracked.fresh = ASSESS_EVERY

    def tick(self) -> None:
        """To be called several times a second."""
        if self._assessing is not None:
            tracked, newest, found = self._assessing
            if not found.done():
                return
            self._assessing = None
            if (error := found.exception()) is None:
                self._apply(tracked, newest, found.result())
            else:
                log.error("the audits of student %s cannot be used: %s", tracked.student, error)
        due = max(self._tracked.values(), key=lambda one: one.fresh, default=None)
        if due is not None and due.fresh >= ASSESS_EVERY:
            self._begin(due)

    def _begin(self, tracked: _Tracked) -> None:
        tracked.fresh = 0
        self._table.forget(tracked.key, keep=_KEEP)
        labels = tracked.config.labels
        kept = self._table.of(tracked.basis, labels, after=tracked.since)
        answers = [
            Answer(
                scores=one.scores, output=one.output, label=one.label, is_marked=one.is_marked, is_audit=one.is_audit
            )
            for one in kept
        ]
        own = ScoreMap.identity(labels)
        work = partial(
            assess,
            answers,
            better_map=lambda *_: None,
            current=own,
            base=own,
            compared_rows=0,
            min_accuracy=tracked.target,
            confidence=tracked.config.confidence,
        )
        self._assessing = tracked, kept[-1].number if kept else tracked.since, in_background("students", work)

    def _apply(self, tracked: _Tracked, newest: int, found: Assessment) -> None:
        before = tracked.least_score
        tracked.found = found
        if found.dropped_from is not None:
            log.warning("student %s is right less often than before: it proves itself again", tracked.student)
            tracked.since, tracked.found = newest, None
            self._table.set_document(tracked.basis, tracked.key, newest)
        least = tracked.least_score
        if least != before:
            words = "none" if least == NEVER else f"those with a score of at least {least:.3f}"
            log.info("student %s answers alone of task %s: %s", tracked.student, tracked.task.name, words)

    def facts(self) -> dict[str, StudentFacts]:
        """By task, for health."""
        return {name: _facts(tracked) for name, tracked in self._tracked.items()}


def _facts(tracked: _Tracked) -> StudentFacts:
    found = tracked.found
    promise = None if found is None else found.promise
    return StudentFacts(
        student=tracked.student,
        share=tracked.answered / tracked.asked if tracked.asked else None,
        accuracy=found.right / found.audits if found is not None and found.audits else None,
        lower_bound=None if found is None else found.lower_bound,
        audits=0 if found is None else found.audits,
        promised=None if promise is None else tracked.target,
        least_score=None if promise is None else promise.threshold,
    )
