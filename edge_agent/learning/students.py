"""Decides from which score on a student answers alone, as audits of its answers prove.

The large model judges an audit by answering the request, too. If the task has `min_accuracy`, the caller judges it.
Belongs to the agent's thread; what the audits say together is computed in the background.
"""

import hashlib
import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge_agent.core.config import FeedbackConfig
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.model import Model
from edge_agent.core.pipe import Finished, Student
from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.answers import AnswerTable, KeptAnswer, student_store_name
from edge_agent.learning.audited import AuditedTask, AuditedTasks
from edge_agent.learning.facts import StudentFacts
from edge_agent.learning.maths.assessment import Assessment, assess
from edge_agent.requests.answerers import AnswererEvent
from edge_agent.requests.request import LARGE, Request
from edge_agent.requests.tasks import Task

log = logging.getLogger(__name__)

# The share of a proven student's requests that the large model answers, too.
AUDIT_SHARE = 0.02
# A student is assessed again after this many new audits.
ASSESS_EVERY = 25
# At least this many audits are kept, because fewer cannot prove a high share.
_MIN_AUDITS = 1000
# The minimum score of a student that is not proven. No score reaches it.
UNREACHABLE = math.inf


@dataclass(frozen=True, slots=True)
class StudentChoice:
    """The student that is asked first."""

    name: str
    min_score: float  # From this score on, its answer is final.
    is_audit: bool = False  # The large model answers, too, whatever the score.

    @property
    def is_proven(self) -> bool:
        return self.min_score < UNREACHABLE


@dataclass(slots=True)
class RequestNotes:
    """What learning keeps about a request while it is answered."""

    input: Any  # Only where inputs are kept with their answers.
    choice: StudentChoice | None = None
    student_answer: Finished | None = None  # The student's answer, if it is not final.


@dataclass(slots=True, eq=False, kw_only=True)
class _StudentTask(AuditedTask):
    student: str
    asked: int = 0  # Requests that the student was asked.
    answered: int = 0  # Those of them that it answered alone.
    new_audits: int = 0  # Audits since an assessment was last made due.
    assessment: Assessment | None = None  # The latest assessment.

    @property
    def is_judged_by_callers(self) -> bool:
        return self.config.min_accuracy is not None

    @property
    def target(self) -> float:
        return self.config.agree if self.config.min_accuracy is None else self.config.min_accuracy

    @property
    def min_score(self) -> float:
        promise = None if self.assessment is None else self.assessment.promise
        return UNREACHABLE if promise is None else promise.threshold

    def count_audit(self) -> None:
        self.new_audits += 1
        if self.new_audits >= ASSESS_EVERY:
            self.new_audits, self.due_at = 0, 0.0

    def facts(self) -> StudentFacts:
        assessment = self.assessment
        promise = None if assessment is None else assessment.promise
        return StudentFacts(
            student=self.student,
            share=self.answered / self.asked if self.asked else None,
            accuracy=assessment.right / assessment.audits if assessment is not None and assessment.audits else None,
            lower_bound=None if assessment is None else assessment.lower_bound,
            audits=0 if assessment is None else assessment.audits,
            promised=None if promise is None else self.target,
            least_score=None if promise is None else promise.threshold,
        )


class Students(AuditedTasks[_StudentTask]):
    """Keeps the audits of students, and decides by them which of a student's answers are final."""

    def __init__(self, config: FeedbackConfig, tasks: Mapping[str, Task], table: AnswerTable, model: Model) -> None:
        super().__init__(config, table, min_kept_marked=_MIN_AUDITS)
        self._tasks = tasks
        self._random = random.SystemRandom()
        # Takes up what earlier processes found out about the students.
        self.set_model(model)

    def set_model(self, model: Model) -> None:
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
                elif student.templates.get(name, task.config.template) != task.config.template:
                    log.warning("%s is not asked: task %s has another template than in training", student.name, name)
                elif task.config.agree < 1 if task.config.min_accuracy is None else self._config.enabled:
                    self._tracked[name] = self._track_student(task, task.config, student, before.get(name))

    def _track_student(
        self, task: Task, config: ClassifyTask, student: Student, before: _StudentTask | None
    ) -> _StudentTask:
        judge = task.basis_for(self._model.weights_sha256) if config.min_accuracy is None else "callers"
        basis = hashlib.sha256(f"{task.definition}\n{student.sha256}\n{judge}".encode()).hexdigest()[:16]
        if before is not None and before.basis == basis and before.config == config:
            return before
        document = self._table.load_state(basis)
        since = document if isinstance(document, int) else 0
        name = student_store_name(task.name, student.name)
        return _StudentTask(task=task, config=config, basis=basis, store_name=name, since=since, student=student.name)

    def choose(self, task: Task) -> StudentChoice | None:
        """The student to ask first; None if the task has none. Some requests are drawn as audits by the large model."""
        tracked = self._find_tracked(task)
        if tracked is None:
            return None
        least = tracked.min_score
        is_drawn = least == UNREACHABLE or self._random.random() < AUDIT_SHARE
        return StudentChoice(tracked.student, least, is_audit=is_drawn and not tracked.is_judged_by_callers)

    def name_in_store(self, task: str) -> str | None:
        """The name of the student's answers in the store; None if the task has no student."""
        tracked = self._tracked.get(task)
        return None if tracked is None else tracked.store_name

    def keep(
        self, request: Request, event: Finished, output: Any, wall_s: float, notes: RequestNotes, *, is_audit: bool
    ) -> bool:
        """Keeps a student's answer; returns whether its caller may be asked if it is right.

        `event` is the final answer, the student's or the large model's, and `output` what the caller gets of it.
        `is_audit` says whether this reply is drawn for an audit by its caller.
        """
        tracked, choice = self._find_tracked(request.task), notes.choice
        if tracked is None or choice is None or choice.name != tracked.student:
            return False
        is_alone = request.answerer != LARGE
        tracked.asked += 1
        tracked.answered += is_alone
        own = event if is_alone else notes.student_answer
        if own is None or own.scores is None:
            return False
        is_audit = is_audit and tracked.is_judged_by_callers
        if choice.is_audit and not is_alone:
            # It takes no feedback, because callers choose what they judge.
            marks = {"id": "", "reply_topic": "", "is_audit": True, "is_marked": True, "label": output}
            self._keep(tracked, request, own, output, wall_s, None, **marks)
            tracked.count_audit()
        elif is_audit or (is_alone and self._config.enabled):
            self._keep(tracked, request, own, output, wall_s, notes.input if is_alone else None, is_audit=is_audit)
        return tracked.is_judged_by_callers

    def on_feedback(self, basis: str) -> None:
        """Counts a new audit when a caller has judged an answer, because most such answers are audits."""
        for tracked in self._tracked.values():
            if tracked.basis == basis:
                tracked.audit_counts = None
                tracked.count_audit()

    def _assessment(self, tracked: _StudentTask) -> tuple[list[KeptAnswer], Callable[[], Assessment]]:
        labels, target = tracked.config.labels, tracked.target
        answers = self._table.answers_for(tracked.basis, labels, after=tracked.since)
        kept = [answer for answer in answers if answer.is_audit]
        self._notice_overdue(tracked, kept)
        return kept, partial(
            assess,
            kept,
            current=ScoreMap.identity(labels),
            min_accuracy=target,
            confidence=tracked.config.confidence,
            is_overdue=tracked.is_overdue,
        )

    def _apply(self, tracked: _StudentTask, kept: list[KeptAnswer], assessment: Assessment) -> list[AnswererEvent]:
        before = tracked.min_score
        tracked.assessment = assessment
        if assessment.drop is not None:
            log.warning("student %s is right less often than before: it has to prove itself again", tracked.student)
            tracked.since, tracked.assessment = kept[-1].number, None
            self._table.save_state(tracked.basis, tracked.store_name, tracked.since)
        least = tracked.min_score
        if least != before:
            words = "none" if least == UNREACHABLE else f"those with a score of at least {least:.3f}"
            log.info("student %s answers alone for task %s: %s", tracked.student, tracked.task.name, words)
        return []

    def promises_need_answers(self) -> bool:
        """Whether callers should answer the audits by which they judge a proven student."""
        return any(
            tracked.min_score < UNREACHABLE and tracked.is_judged_by_callers and self.needs_answers(name)
            for name, tracked in self._tracked.items()
        )

    def facts(self) -> dict[str, StudentFacts]:
        return {name: tracked.facts() for name, tracked in self._tracked.items()}
