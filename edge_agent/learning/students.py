"""From which score on a student answers alone: proven by audits of its answers.

An audit is judged by the large model, which answers the request, too; of a task with `min_accuracy` by its caller.
Belongs to the agent's thread; what the audits say together is computed in the background.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge_agent.core.background import in_background
from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.model import Model
from edge_agent.core.pipe import Finished, Student
from edge_agent.core.score_map import ScoreMap
from edge_agent.core.strict_json import encode
from edge_agent.learning.answers import AnswerTable, KeptAnswer, name_of_student
from edge_agent.learning.facts import StudentFacts
from edge_agent.learning.maths.assessment import Assessment, assess
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.tasks import Task

log = logging.getLogger(__name__)

# Of the requests that a proven student is asked: the large model answers them, too.
AUDIT_SHARE = 0.02
# What is known is computed again after so many new audits.
ASSESS_EVERY = 25
# So many audits are kept at least: fewer prove no high share.
_LEAST_AUDITS = 1000
# Old answers are looked for after so many new ones.
_FORGET_EVERY = 50
_DAY_S = 86_400.0


# No score reaches it.
UNREACHABLE = math.inf


@dataclass(frozen=True, slots=True)
class StudentChoice:
    """The student that is asked first."""

    name: str
    min_score: float  # From this score on, its answer stands.
    is_audit: bool = False  # The large model answers, too, whatever the score.

    @property
    def is_proven(self) -> bool:
        return self.min_score < UNREACHABLE


@dataclass(slots=True, eq=False)
class _Tracked:
    """A task and its student. basis: of the task's definition, the student and the large model, if that judges.

    name: of the task in the store. asked, answered: requests that the student was asked, and answered alone.
    new_audits: since the latest assessment. since: the number of the last audit before the accuracy dropped.
    found: the latest assessment, None = there was none.
    """

    task: Task
    config: ClassifyTask
    student: str
    basis: str
    name: str
    since: int = 0
    asked: int = 0
    answered: int = 0
    kept: int = 0
    new_audits: int = ASSESS_EVERY
    found: Assessment | None = None

    @property
    def is_judged_by_callers(self) -> bool:
        return self.config.min_accuracy is not None

    @property
    def target(self) -> float:
        return self.config.agree if self.config.min_accuracy is None else self.config.min_accuracy

    @property
    def min_score(self) -> float:
        return UNREACHABLE if self.found is None or self.found.promise is None else self.found.promise.threshold


class Students:
    """Keeps the audits of students, and chooses from them which answers of a student stand."""

    def __init__(self, config: FeedbackConfig, tasks: Mapping[str, Task], table: AnswerTable, model: Model) -> None:
        self._config = config
        self._tasks = tasks
        self._table = table
        self._model = model
        # By the task's name.
        self._tracked: dict[str, _Tracked] = {}
        self._assessing: tuple[_Tracked, int, Future[Assessment]] | None = None
        self._random = random.SystemRandom()
        # What earlier processes found of the students holds again.
        self._track()

    def set_model(self, model: Model) -> None:
        """Another model with other students is in force."""
        self._model = model
        self._track()

    def reconfigure(self, config: FeedbackConfig, tasks: Mapping[str, Task]) -> None:
        self._config, self._tasks = config, tasks
        self._track()

    def _track(self) -> None:
        before, self._tracked = self._tracked, {}
        for student in self._model.students:
            for name, labels in student.tasks.items():
                task = self._tasks.get(name)
                if task is None or not isinstance(task.config, ClassifyTask):
                    continue
                if set(labels) != set(task.config.labels):
                    log.warning("%s is not asked: task %s has other labels than it was trained for", student.name, name)
                elif self._can_be_proven(task.config):
                    self._tracked[name] = self._tracked_one(task, task.config, student, before.get(name))

    def _can_be_proven(self, config: ClassifyTask) -> bool:
        return config.agree < 1 if config.min_accuracy is None else self._config.enabled

    def _tracked_one(self, task: Task, config: ClassifyTask, student: Student, before: _Tracked | None) -> _Tracked:
        judge = task.basis_for(self._model.weights_sha256) if config.min_accuracy is None else "callers"
        basis = hashlib.sha256(f"{task.definition}\n{student.sha256}\n{judge}".encode()).hexdigest()[:16]
        if before is not None and before.basis == basis and before.config == config:
            return before
        found = _Tracked(task, config, student.name, basis, name_of_student(task.name, student.name))
        document = self._table.document(basis)
        found.since = document if isinstance(document, int) else 0
        return found

    def choose(self, task: Task) -> StudentChoice | None:
        """For a request of this task; None = it has no student. Some are drawn for audits by the large model."""
        tracked = self._tracked_as(task)
        if tracked is None:
            return None
        least = tracked.min_score
        is_drawn = least == UNREACHABLE or self._random.random() < AUDIT_SHARE
        return StudentChoice(tracked.student, least, is_audit=is_drawn and not tracked.is_judged_by_callers)

    def _tracked_as(self, task: Task) -> _Tracked | None:
        """None also for a request of a definition that is gone."""
        tracked = self._tracked.get(task.name)
        return tracked if tracked is not None and tracked.task.definition == task.definition else None

    def name_in_store(self, task: str) -> str | None:
        """The name of its answers in the store; None = the task has no student."""
        tracked = self._tracked.get(task)
        return None if tracked is None else tracked.name

    def keep(
        self,
        request: Request,
        event: Finished,
        output: Any,
        wall_s: float,
        *,
        value: Any,
        choice: StudentChoice | None,
        student_answer: Finished | None,
        is_audit: bool,
    ) -> bool:
        """Keeps a student's answer. True = its caller is to be asked whether it is right.

        event: the answer that stands, its own or the large model's. output: what the caller gets of it. student_answer:
        one that does not stand. is_audit: this reply is drawn for an audit by its caller.
        """
        assert request.task is not None
        tracked = self._tracked_as(request.task)
        if tracked is None or choice is None or choice.name != tracked.student:
            return False
        is_alone = request.answerer != LARGE
        tracked.asked += 1
        tracked.answered += is_alone
        own = event if is_alone else student_answer
        if own is None or own.scores is None:
            return False
        is_audit = is_audit and tracked.is_judged_by_callers
        is_judged = choice.is_audit and not is_alone
        if is_judged or is_audit or (is_alone and self._config.enabled):
            answer = KeptAnswer(
                # An audit by the large model takes no feedback: callers choose what they judge.
                id="" if is_judged else json.dumps(request.id),
                reply_topic="" if is_judged else request.reply_topic,
                wall_s=wall_s,
                scores={label: round(score, 9) for label, score in own.scores.items()},
                tokens=own.prompt_tokens,
                is_audit=is_judged or is_audit,
                input=None if value is None or not is_alone else encode(value),
                output=output,
                is_marked=is_judged,
                label=output if is_judged else None,
            )
            self._table.keep(tracked.name, tracked.basis, answer)
            tracked.new_audits += is_judged
            tracked.kept += 1
            if tracked.kept % _FORGET_EVERY == 0:
                self._forget_old(tracked, wall_s)
        return is_audit

    def _forget_old(self, tracked: _Tracked, wall_s: float) -> None:
        keep = self._config.keep
        self._table.forget(
            tracked.name,
            keep=keep,
            keep_marked=max(keep, _LEAST_AUDITS),
            before_wall_s=wall_s - self._config.days * _DAY_S,
        )

    def on_feedback(self, basis: str) -> None:
        """A caller has judged an answer: most are audits."""
        for tracked in self._tracked.values():
            if tracked.basis == basis:
                tracked.new_audits += 1

    def tick(self) -> None:
        """To be called several times a second."""
        if self._assessing is not None:
            tracked, newest, found = self._assessing
            if not found.done():
                return
            self._assessing = None
            if tracked not in self._tracked.values():
                log.info("%s: the task changed in the meantime", tracked.name)
            elif (error := found.exception()) is None:
                self._apply(tracked, newest, found.result())
            else:
                log.error("the audits of student %s cannot be used: %s", tracked.student, error)
        due = max(self._tracked.values(), key=lambda one: one.new_audits, default=None)
        if due is not None and due.new_audits >= ASSESS_EVERY:
            self._begin(due)

    def _begin(self, tracked: _Tracked) -> None:
        tracked.new_audits = 0
        labels = tracked.config.labels
        kept = [one for one in self._table.of(tracked.basis, labels, after=tracked.since) if one.is_audit]
        own = ScoreMap.identity(labels)
        work = partial(
            assess,
            kept,
            better_map=lambda *_: None,
            current=own,
            base=own,
            compared_rows=0,
            min_accuracy=tracked.target,
            confidence=tracked.config.confidence,
        )
        self._assessing = tracked, kept[-1].number if kept else tracked.since, in_background("students", work)

    def _apply(self, tracked: _Tracked, newest: int, found: Assessment) -> None:
        before = tracked.min_score
        tracked.found = found
        if found.dropped_from is not None:
            log.warning("student %s is right less often than before: it has to prove itself again", tracked.student)
            tracked.since, tracked.found = newest, None
            self._table.set_document(tracked.basis, tracked.name, newest)
        least = tracked.min_score
        if least != before:
            words = "none" if least == UNREACHABLE else f"those with a score of at least {least:.3f}"
            log.info("student %s answers alone for task %s: %s", tracked.student, tracked.task.name, words)

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
