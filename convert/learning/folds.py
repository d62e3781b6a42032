"""Which rows are held out: no model is judged on rows that it has been trained on."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConvertError
from .training_rows import Row, by_task

PARTS = 5
# With fewer rows, each part is held out once.
MANY_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Fold:
    train: Sequence[Row]
    held_out: Sequence[Row]


def folds_of(rows: Sequence[Row], seed: int) -> tuple[list[Fold], str]:
    """The folds, and in words which rows are held out.

    The newest part, if rows carry a time. Else a part with its share of each answer, or each such part in turn. Raises
    ConvertError for a task that has no rows on one of the two sides.
    """
    # Equal times would leave it to the order of the file.
    if len({row.time for row in rows}) > PARTS:
        last = len(rows) - len(rows) // PARTS
        folds, words = [Fold(rows[:last], rows[last:])], f"the newest {len(rows) - last} rows"
    else:
        parts = _parts_by_answer(rows, seed)
        count = 1 if len(rows) >= MANY_ROWS else PARTS
        folds = [Fold([row for other in parts if other is not part for row in other], part) for part in parts[:count]]
        words = f"all rows, each by a model that has not seen its {100 // PARTS} %"
        if count == 1:
            words = f"{len(folds[0].held_out)} rows, drawn from each answer at random"
    sides = [by_task(side) for fold in folds for side in (fold.train, fold.held_out)]
    for name in by_task(rows):
        if any(name not in side for side in sides):
            raise ConvertError(f"task {name}: has too few rows, or all of about one time: judged are {words}")
    return folds, words


def half_of(rows: Sequence[Row], seed: int) -> list[Row]:
    """With its share of each answer."""
    return _by_answer(rows, seed)[::2]


def _parts_by_answer(rows: Sequence[Row], seed: int) -> list[list[Row]]:
    """Each with its share of each answer. Rows with the same input are in the same part."""
    ordered = _by_answer(rows, seed)
    inputs = dict.fromkeys((row.task.name, row.text) for row in ordered)
    part_of = {one: number % PARTS for number, one in enumerate(inputs)}
    return [[row for row in ordered if part_of[row.task.name, row.text] == part] for part in range(PARTS)]


def _by_answer(rows: Sequence[Row], seed: int) -> list[Row]:
    """Answer by answer, those of each in random order."""
    by_answer = defaultdict[tuple[str, str], list[Row]](list)
    for row in random.Random(seed).sample(list(rows), len(rows)):  # noqa: S311 - reproducible
        by_answer[row.task.name, row.answer_text].append(row)
    return [row for of_answer in by_answer.values() for row in of_answer]
