"""From which score on a student answers alone: proven by requests that both it and the large model answer.

Belongs to the agent's thread; what the answers say together is computed in the background.
"""

from __future__ import annotations

import hashlib
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
from edge_agent.core.clock import moment
from edge_agent.core.config import ClassifyTask
from edge_agent.core.model import Model
from edge_agent.core.pipe import NEVER, Finished
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import Task
from edge_agent.store.answers import AnswerTable, KeptAnswer
from edge_agent.store.store import Store

log = logging.getLogger(__name__)

# Of a student's requests, once it is proven: the large model answers them, too.
AUDIT_SHARE = 0.02
# What is known is computed again after so many new ones.
_ASSESS_EVERY = 25
# Older ones are forgotten.
_KEEP = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFacts:
    """What health says of a student's task. None = unknown.

    share: of its requests that the student answered, since the agent's start. audits: that both answered.
    agreement: the share of these with the same answer. least_score: from which the student answers alone.
    """

    student: str
    share: float | None
    agreement: float | None
    lower_bound: float | None
    audits: int
    promised: float | None
    least_score: float | None


@dataclass(slots=True, eq=False)
class _Tracked:
    """A task, its student and the large model. basis: identifies the three in the store. key: the task's name there.

    asked, answered: requests that it was asked, and those that it answered. fresh: audits since the latest assessment.
    since: the number of the last audit before the agreement dropped. found: what is known, None = nothing yet.
    """

    task: Task
    config: ClassifyTask
    student: str
    basis: str
    key: str
    since: int = 0
    asked: int = 0
    answered: int = 0
    fresh: int = _ASSESS_EVERY
    found: Assessment | None = None

    @property
    def least_score(self) -> float:
        return NEVER if self.found is None or self.found.promise is None else self.found.promise.threshold


class Agreement:
    """All tasks with a student."""

    def __init__(self, tasks: Mapping[str, Task], store: Store) -> None:
        self._tasks = tasks
        self._table = AnswerTable(store)
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

    def reconfigure(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = tasks
        self._track()

    def _track(self) -> None:
        before, self._tracked = self._tracked, {}
        for name, student in self._students.items():
            task = self._tasks.get(name)
            if task is None or not isinstance(task.config, ClassifyTask) or task.config.min_accuracy is not None:
                continue
            basis = self._basis(task, student)
            tracked = before.get(name)
            if tracked is None or tracked.basis != basis or tracked.config != task.config:
                tracked = _Tracked(task, task.config, student, basis, key=f"{name}/{student}")
                document = self._table.document(basis)
                tracked.since = document if isinstance(document, int) else 0
            self._tracked[name] = tracked

    def _basis(self, task: Task, student: str) -> str:
        assert self._model is not None
        [sha256] = (one.sha256 for one in self._model.students if one.name == student)
        return hashlib.sha256(f"{task.basis_for(self._model.weights_sha256)}\n{sha256}".encode()).hexdigest()[:16]

    def least_score(self, task: Task) -> float | None:
        """For a request of this task: from which score on the student's answer stands; None = it has no student.

        Some requests are drawn to be answered by both.
        """
        tracked = self._tracked.get(task.name)
        if tracked is None or tracked.task.definition != task.definition:
            return None
        return NEVER if self._random.random() < AUDIT_SHARE else tracked.least_score

    def keep(self, request: Request, event: Finished, output: Any, now: float) -> None:
        """Takes an answer of a task with a student. output: what the caller gets."""
        tracked = self._tracked.get(request.task_name)
        if tracked is None or event.student is None or tracked.student != event.student.name:
            return
        tracked.asked += 1
        tracked.answered += event.student.stands
        # Others that the student passed on are no random sample.
        if event.student.stands or request.run is None or request.run.student_least != NEVER:
            return
        scores = event.student.scores
        answer = KeptAnswer(
            # No feedback will come.
            id="",
            reply_topic="",
            wall_s=moment(now).wall_s,
            scores={label: round(score, 9) for label, score in scores.items()},
            tokens=event.prompt_tokens,
            is_audit=True,
            output=max(scores, key=scores.__getitem__),
            is_marked=True,
            label=output,
        )
        self._table.keep(tracked.key, tracked.basis, answer)
        tracked.fresh += 1

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
                log.error("what student %s agrees on cannot be computed: %s", tracked.student, error)
        due = max(self._tracked.values(), key=lambda one: one.fresh, default=None)
        if due is not None and due.fresh >= _ASSESS_EVERY:
            self._begin(due)

    def _begin(self, tracked: _Tracked) -> None:
        tracked.fresh = 0
        self._table.forget(tracked.key, keep=_KEEP)
        labels = tracked.config.labels
        kept = self._table.of(tracked.basis, labels, after=tracked.since)
        answers = [
            Answer(scores=one.scores, output=one.output, label=one.label, is_marked=True, is_audit=True) for one in kept
        ]
        own = ScoreMap.identity(labels)
        work = partial(
            assess,
            answers,
            better_map=lambda *_: None,
            current=own,
            base=own,
            compared_rows=0,
            min_accuracy=tracked.config.agree,
            confidence=tracked.config.confidence,
        )
        self._assessing = tracked, kept[-1].number if kept else tracked.since, in_background("agreement", work)

    def _apply(self, tracked: _Tracked, newest: int, found: Assessment) -> None:
        before = tracked.least_score
        tracked.found = found
        if found.dropped_from is not None:
            log.warning("student %s agrees less often than before: it proves itself again", tracked.student)
            tracked.since, tracked.found = newest, None
            self._table.set_document(tracked.basis, tracked.key, newest)
        if tracked.least_score != before:
            log.info("student %s answers alone from a score of %.3f on", tracked.student, tracked.least_score)

    def facts(self) -> dict[str, StudentFacts]:
        """By task, for health."""
        return {name: _facts(tracked) for name, tracked in self._tracked.items()}


def _facts(tracked: _Tracked) -> StudentFacts:
    found = tracked.found
    promise = None if found is None else found.promise
    return StudentFacts(
        student=tracked.student,
        share=tracked.answered / tracked.asked if tracked.asked else None,
        agreement=found.right / found.audits if found is not None and found.audits else None,
        lower_bound=None if found is None else found.lower_bound,
        audits=0 if found is None else found.audits,
        promised=None if promise is None else tracked.config.agree,
        least_score=None if promise is None else promise.threshold,
    )
