"""What is learnt, and what is judged: labelled rows alone, or together with a teacher's answers.

No model is judged on rows that it has been trained on.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConvertError
from .quality import AnsweredRow
from .report import FEW_ROWS, TeacherQuality
from .teacher import Teacher
from .training_rows import Row, by_task, in_order_of_time

PARTS = 5
# From this many rows on, one part is held out; below it, each part in turn.
MANY_ROWS = 1000
# The same for answers that are numbers, whose intervals need more held-out rows.
MANY_NUMBERS = 5000
# Of many rows, parts are held out until they have this many groups, because a group may say as little as one row; and,
# if there are so many, FEW_ROWS rows of each label.
MIN_GROUPS = 10


@dataclass(frozen=True, slots=True)
class Fold:
    train: Sequence[Row]
    held_out: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Study:
    """The rows that the written model learns from, and the folds by which its recipe is judged."""

    rows: Sequence[Row]
    folds: Sequence[Fold]  # They have labelled rows, or the teacher's answers for tasks without any.
    held_out: str  # The rows that the folds hold out, in words.
    teacher: Teacher | None = None
    corrected: Teacher | None = None  # The teacher for the written model, corrected by all labelled rows.
    by_fold: Sequence[Teacher] = ()  # The teacher for each fold, corrected by no row that the fold holds out.
    labelled_tasks: frozenset[str] = frozenset()
    unlabelled_train: Sequence[Row] = ()
    """Rows of the labelled tasks without a label of their own, to which each fold learns the teacher's answers."""
    unlabelled_held_out: Sequence[Row] = ()
    """More such rows, on which the model of the first fold is compared with the teacher."""

    @classmethod
    def of(cls, labelled: Sequence[Row], teacher: Teacher | None, seed: int) -> "Study":
        """Raises ConvertError for a task that has no rows to learn from, or none to be judged on."""
        if teacher is None:
            return cls(labelled, *folds_of(labelled, seed))
        known = frozenset(row.task.name for row in labelled)
        teacher_only = teacher.answer([row for row in teacher.unlabelled if row.task.name not in known])
        # Folds by time need their order.
        folds, held_out = folds_of(in_order_of_time([*labelled, *teacher_only]), seed)
        unlabelled = [row for row in teacher.unlabelled if row.task.name in known]
        random.Random(seed).shuffle(unlabelled)  # noqa: S311 - reproducible
        cut = len(unlabelled) // PARTS
        corrected, by_fold = teacher.corrected_by(labelled), [teacher.corrected_by(fold.train) for fold in folds]
        rows = [*labelled, *corrected.answer(teacher.unlabelled)]
        return cls(rows, folds, held_out, teacher, corrected, by_fold, known, unlabelled[cut:], unlabelled[:cut])

    def with_teacher_answers(self, fold: Fold) -> Fold:
        """The fold, or a part of one, with the teacher's answers that its model learns or is compared with."""
        if self.teacher is None:
            return fold
        known = [teacher for teacher, other in zip(self.by_fold, self.folds, strict=True) if other is fold]
        teacher = known[0] if known else self.teacher.corrected_by(fold.train)
        compared = self.unlabelled_held_out if fold is self.folds[0] else ()
        return Fold([*fold.train, *teacher.answer(self.unlabelled_train)], [*fold.held_out, *teacher.answer(compared)])

    def judged(self, task: str, answers: Iterable[AnsweredRow]) -> list[AnsweredRow]:
        """The answers to rows that the folds hold out."""
        return [
            answered for answered in answers if answered.row.task.name == task and not self._is_compared(answered.row)
        ]

    def teacher_quality(self, task: str, answers: Iterable[AnsweredRow]) -> TeacherQuality | None:
        """How the teacher compares with `answers` of the first fold's model; None if it did not answer this task."""
        if self.teacher is None or self.corrected is None:
            return None
        if not (lessons := sum(row.task.name == task for row in self.teacher.unlabelled)):
            return None
        right = [
            answered.is_right
            for fold, teacher in zip(self.folds, self.by_fold, strict=True)
            for answered in teacher.judged_on([row for row in fold.held_out if row.task.name == task])
            if answered.row.chances is None
        ]
        agreed = [
            answered.is_right
            for answered in answers
            if answered.row.task.name == task and self._is_compared(answered.row)
        ]
        return TeacherQuality(
            lessons=lessons,
            is_corrected=self.corrected.maps.get(task) != self.teacher.maps.get(task),
            judged=len(right),
            right=sum(right),
            compared=len(agreed),
            agreed=sum(agreed),
        )

    def _is_compared(self, row: Row) -> bool:
        """Whether it is the teacher's answer to a row of a labelled task."""
        return row.chances is not None and row.task.name in self.labelled_tasks


def folds_of(rows: Sequence[Row], seed: int, noun: str = "rows") -> tuple[list[Fold], str]:
    """The folds, and which rows they hold out, in words.

    With groups, whole groups are held out; otherwise with times, the newest part; otherwise parts stratified by answer,
    one of many rows or each of few. `noun` says what the rows are. Raises ConvertError for a task without rows on one
    of the two sides.
    """
    is_number = all(row.task.config.is_number for row in rows)
    has_many = len(rows) >= (MANY_NUMBERS if is_number else MANY_ROWS)
    if any(row.group is not None for row in rows):
        parts = _parts_by_group(rows, seed)
        enough = (count for count in range(1, len(parts)) if has_many and _is_enough(parts, count))
        count = next(enough, len(parts))
        folds = _folds(parts, count)
        judged = [row for fold in folds for row in fold.held_out]
        what = "machine" if all(row.group == row.machine for row in rows) else "group"
        groups = f"{len(_by_group(judged))} {what}s"
        words = f"{len(judged):,} {noun} of {groups}, each by a model that has never seen its {what}"
    # If many times were equal, the order of the file would decide.
    elif len({row.time for row in rows}) > PARTS:
        last = len(rows) - len(rows) // PARTS
        folds, words = [Fold(rows[:last], rows[last:])], f"the newest {len(rows) - last:,} {noun}"
    else:
        parts = _parts_by_answer(rows, seed)
        count = 1 if has_many else PARTS
        folds = _folds(parts, count)
        words = f"all {noun}, each by a model that has not seen its part of {100 // PARTS} %"
        if count == 1:
            words = f"{len(folds[0].held_out):,} {noun}, drawn at random from those of each answer"
    sides = [by_task(side) for fold in folds for side in (fold.train, fold.held_out)]
    for name in by_task(rows):
        if any(name not in side for side in sides):
            raise ConvertError(f"task {name}: has too few rows, or all from about one time; it is judged on {words}")
    return folds, words


def _is_enough(parts: Sequence[list[Row]], count: int) -> bool:
    """Whether the first `count` parts have enough groups, and enough rows of each label or all of them."""
    judged, all_rows = ([row for part in some for row in part] for some in (parts[:count], parts))
    of_label, of_all = (
        Counter((row.task.name, row.answer_text) for row in rows if row.task.config.choices)
        for rows in (judged, all_rows)
    )
    has_labels = all(of_label[label] >= min(FEW_ROWS, total) for label, total in of_all.items())
    return len(_by_group(judged)) >= MIN_GROUPS and has_labels


def _folds(parts: Sequence[list[Row]], count: int) -> list[Fold]:
    """Holds out each of the first `count` parts."""
    return [Fold([row for other in parts if other is not part for row in other], part) for part in parts[:count]]


def _parts_by_group(rows: Sequence[Row], seed: int) -> list[list[Row]]:
    """Parts of whole groups, stratified by the groups' most frequent answers."""
    groups = _by_group(rows)
    shuffled = random.Random(seed).sample(groups, len(groups))  # noqa: S311 - reproducible
    # Groups with the same most frequent answer are dealt to the parts in turn.
    shuffled.sort(key=lambda group: Counter((row.task.name, row.answer_text) for row in group).most_common(1)[0][0])
    count = min(PARTS, len(shuffled))
    return [[row for group in shuffled[part::count] for row in group] for part in range(count)]


def _by_group(rows: Sequence[Row]) -> list[list[Row]]:
    """The groups of each task. A row without one, such as a teacher's, is one by itself."""
    groups = defaultdict[tuple[str, str | int], list[Row]](list)
    for number, row in enumerate(rows):
        groups[row.task.name, number if row.group is None else row.group].append(row)
    return list(groups.values())


def _parts_by_answer(rows: Sequence[Row], seed: int) -> list[list[Row]]:
    """Parts stratified by answer. Rows with the same input are in the same part."""
    ordered = _by_answer(rows, seed)
    part_of = {input_: number % PARTS for number, input_ in enumerate(dict.fromkeys(map(_input, ordered)))}
    return [[row for row in ordered if part_of[_input(row)] == part] for part in range(PARTS)]


def _input(row: Row) -> tuple[str, ...]:
    """The same for rows that give one another's answer away. That a reading comes again is what makes it usual."""
    name = row.task.name
    return (name, row.request.where) if row.task.config.has_own_model else (name, row.identity)


def _by_answer(rows: Sequence[Row], seed: int) -> list[Row]:
    """Answer by answer, those of each in random order."""
    by_answer = defaultdict[tuple[str, str], list[Row]](list)
    for row in random.Random(seed).sample(list(rows), len(rows)):  # noqa: S311 - reproducible
        by_answer[row.task.name, row.answer_text].append(row)
    return [row for answer_rows in by_answer.values() for row in answer_rows]
