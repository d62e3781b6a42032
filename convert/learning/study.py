"""What is learnt, and what is judged: labelled rows alone, or with a teacher's lessons."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .folds import PARTS, Fold, folds_of
from .quality import Answered
from .report import TeacherQuality
from .rows import Row
from .teacher import Teacher


@dataclass(frozen=True, slots=True)
class Study:
    """rows: what the written model learns. folds: of labelled rows, and of lessons of tasks that have no others.

    learnt, compared: rows without labels of the other tasks: what each fold learns beside its own, and what the first
    fold's model is compared with the teacher on.
    """

    rows: Sequence[Row]
    folds: Sequence[Fold]
    held_out: str
    teacher: Teacher | None = None
    labelled_tasks: frozenset[str] = frozenset()
    learnt: Sequence[Row] = ()
    compared: Sequence[Row] = ()

    @classmethod
    def of(cls, labelled: Sequence[Row], teacher: Teacher | None, seed: int) -> "Study":
        """Raises ConvertError for a task that has no rows to learn from, or none to be judged on."""
        if teacher is None:
            return cls(labelled, *folds_of(labelled, seed))
        known = frozenset(row.task.name for row in labelled)
        alone = teacher.lessons([row for row in teacher.unlabelled if row.task.name not in known])
        # Folds by time need their order.
        folds, held_out = folds_of(sorted([*labelled, *alone], key=lambda row: row.time or 0.0), seed)
        beside = [row for row in teacher.unlabelled if row.task.name in known]
        random.Random(seed).shuffle(beside)  # noqa: S311 - reproducible
        cut = len(beside) // PARTS
        rows = [*labelled, *teacher.corrected_by(labelled).lessons(teacher.unlabelled)]
        return cls(rows, folds, held_out, teacher, known, beside[cut:], beside[:cut])

    def taught(self, fold: Fold) -> Fold:
        """With the lessons of the teacher, corrected by no row that the fold holds out."""
        if self.teacher is None:
            return fold
        corrected = self.teacher.corrected_by(fold.train)
        compared = self.compared if fold is self.folds[0] else ()
        return Fold([*fold.train, *corrected.lessons(self.learnt)], [*fold.held_out, *corrected.lessons(compared)])

    def judged(self, task: str, answers: Iterable[Answered]) -> list[Answered]:
        """The answers to rows that the folds hold out."""
        return [one for one in answers if one.row.task.name == task and not self._is_compared(one.row)]

    def teacher_quality(self, task: str, answers: Iterable[Answered]) -> TeacherQuality | None:
        """answers: of the first fold's model. None = the task has no lessons."""
        teacher = self.teacher
        lessons = [] if teacher is None else [row for row in teacher.unlabelled if row.task.name == task]
        if teacher is None or not lessons:
            return None
        right = [
            one.is_right
            for fold in self.folds
            for one in teacher.corrected_by(fold.train).judged_on(fold.held_out)
            if one.row.task.name == task and one.row.chances is None
        ]
        agreed = [one.is_right for one in answers if one.row.task.name == task and self._is_compared(one.row)]
        corrected = teacher.corrected_by(self.rows)
        return TeacherQuality(
            lessons=len(lessons),
            is_corrected=corrected.maps.get(task) != teacher.maps.get(task),
            judged=len(right),
            right=sum(right),
            compared=len(agreed),
            agreed=sum(agreed),
        )

    def _is_compared(self, row: Row) -> bool:
        """Whether it is a lesson of a task with labelled rows."""
        return row.chances is not None and row.task.name in self.labelled_tasks
