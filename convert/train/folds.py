"""Which rows are held out: no model is judged on rows that it has learnt from."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .rows import Row, have_time

_PARTS = 5
# With fewer rows, each part is held out once.
_MANY_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows to learn from, and rows to be judged on."""

    known: Sequence[Row]
    held_out: Sequence[Row]


def folds_of(rows: Sequence[Row], seed: int) -> tuple[list[Fold], str]:
    """And in words which rows are held out: the newest; without times a part of each answer's rows, or each in turn."""
    if have_time(rows):
        last = len(rows) - len(rows) // _PARTS
        return [Fold(rows[:last], rows[last:])], f"the newest {len(rows) - last} rows"
    ordered = _by_answer(rows, seed)
    count = 1 if len(rows) >= _MANY_ROWS else _PARTS
    folds = [
        Fold([row for at, row in enumerate(ordered) if at % _PARTS != part], ordered[part::_PARTS])
        for part in range(count)
    ]
    if count == 1:
        return folds, f"{len(folds[0].held_out)} rows, chosen at random"
    return folds, f"all rows, each by a model that has not seen its {100 // _PARTS} %"


def _by_answer(rows: Sequence[Row], seed: int) -> list[Row]:
    """Answer by answer, those of each in random order."""
    by_answer = defaultdict[tuple[str, str], list[Row]](list)
    for row in random.Random(seed).sample(list(rows), len(rows)):  # noqa: S311 - reproducible
        by_answer[row.task.name, row.answer_text].append(row)
    return [row for several in by_answer.values() for row in several]
