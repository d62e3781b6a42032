"""Rows in runs: readings taken soon after one another, which are alike, so that many say little more than one.

Figures from held-out rows are then true only if whole runs are held out: a neighbour gives a row's answer away.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..agent import number_of
from .training_rows import Row, by_task

# Rows in runs are cut into blocks of time, so many times as long as rows are alike: at most and at least so many.
BLOCK_LENGTH = 4
BLOCKS, MIN_BLOCKS = 20, 5
# Neighbours are alike if they differ by less than this share of what any two rows with their answer differ by,
_ALIKE = 0.8
# or if their answers agree this much more often than those of any two rows do: 0 is by chance, 1 always.
_AGREEMENT = 0.4
# And if chance explains neither: standard errors.
_SURE = 5.0


def in_groups(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows with a group each where a task's rows have one, or come in runs; and what to know of them.

    rows: in the order of time, if they have one; otherwise their order in the file stands for it.
    """
    groups, notes = dict[int, str](), list[str]()
    for name, of_task in by_task(rows).items():
        if any(row.group is not None for row in of_task):
            lone = sum(row.group is None for row in of_task)
            if lone:
                notes.append(f"task {name}: {lone} rows have no group; each counts as a group of its own")
            groups |= {id(row): f"row {at}" if row.group is None else row.group for at, row in enumerate(of_task)}
        elif (alike := _what_is_alike(of_task)) is not None:
            count = _count_blocks(of_task)
            groups |= {id(row): f"block {block}" for block, row in _blocks(of_task, count)}
            order = "in time" if of_task[0].time is not None else "in the file"
            notes.append(
                f"task {name}: {alike} of neighbouring rows {order} are alike, so the rows are not independent: "
                f"{count} blocks of neighbours stand in for groups. It is better to give each row a `group`, "
                "such as an episode, a batch or a day"
            )
    return [replace(row, group=groups.get(id(row))) for row in rows], notes


def _count_blocks(rows: Sequence[Row]) -> int:
    lag = 1
    while lag * BLOCK_LENGTH * MIN_BLOCKS < len(rows) and _what_is_alike(rows, 2 * lag) is not None:
        lag *= 2
    # At half of this distance, rows are still alike.
    return min(max(len(rows) // (2 * lag * BLOCK_LENGTH), MIN_BLOCKS), BLOCKS)


def _what_is_alike(rows: Sequence[Row], lag: int = 1) -> str | None:
    """The answers or the values, if rows at this distance are more alike than chance explains."""
    if len(rows) <= lag:
        return None
    ordered = _by_machine(rows)
    labels, answers = np.unique([_label(row) for row in ordered], return_inverse=True)
    agreement = float(np.mean(answers[lag:] == answers[:-lag]))
    by_chance = float(np.sum((np.bincount(answers) / len(answers)) ** 2))
    error = np.sqrt(by_chance * (1 - by_chance) / len(answers))
    if not _is_sorted(ordered) and agreement - by_chance > max(_AGREEMENT * (1 - by_chance), _SURE * error):
        return "the answers"
    places = _places(ordered)
    if not places.size:
        return None
    draw = np.random.default_rng(0)
    # Pairs with the same answer, because a file sorted by answer has no other neighbours.
    by_answer = [np.flatnonzero(answers == answer) for answer in range(len(labels))]
    same = np.flatnonzero(answers[lag:] == answers[:-lag])
    others = np.array([draw.choice(by_answer[answers[at]]) for at in same], dtype=np.int64)
    keep = others != same
    same, others = same[keep], others[keep]
    if len(same) < 2:
        return None
    near, far = np.abs(places[same] - places[same + lag]), np.abs(places[same] - places[others])
    # Whether there are runs, all fields say together, as a mere counter also rises; how long they are, the slowest one.
    slowest = np.argmin(near.mean(axis=0) - far.mean(axis=0))
    near, far = (side.mean(axis=1) if lag == 1 else side[:, slowest] for side in (near, far))
    gap = far - near
    is_sure = gap.mean() > _SURE * gap.std() / np.sqrt(len(gap))
    return "the values" if is_sure and near.mean() < _ALIKE * far.mean() else None


def _places(rows: Sequence[Row]) -> npt.NDArray[np.float64]:
    """[rows, numbers], from 0 to 1: where each stands among the different values of its field."""
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row.values):
        values = [row.values.get(name) for row in rows]
        numbers = [number_of(value) for value in values]
        if sum(number is None for number in numbers) < len(rows) / 2:
            known = np.array([np.nan if number is None else number for number in numbers])
            distinct, order = np.unique(known, return_inverse=True)
            columns.append(order / max(len(distinct) - 1, 1))
    return np.array(columns, dtype=np.float64).T


def _blocks(rows: Sequence[Row], count: int) -> list[tuple[int, Row]]:
    """Each row with the number of its block: a stretch of time of a machine.

    In a file that is sorted by answer, a block has a stretch of each answer's rows.
    """
    ordered = _by_machine(rows)
    if not _is_sorted(ordered):
        return [(at * count // len(ordered), row) for at, row in enumerate(ordered)]
    by_answer: dict[str, list[Row]] = {}
    for row in ordered:
        by_answer.setdefault(_label(row), []).append(row)
    return [(at * count // len(some), row) for some in by_answer.values() for at, row in enumerate(some)]


def _by_machine(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.machine or "")


def _is_sorted(rows: Sequence[Row]) -> bool:
    """Whether the rows of each answer stand together, so that their order is no order of time."""
    changes = sum(_label(before) != _label(after) for before, after in pairwise(rows))
    return rows[0].time is None and changes < len({_label(row) for row in rows})


def _label(row: Row) -> str:
    """The same for all rows where answers are no labels: nearly each is another one then."""
    return row.answer_text if row.task.config.choices else ""
