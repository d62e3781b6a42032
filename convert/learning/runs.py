"""Rows in runs. Readings taken soon after one another are alike (autocorrelated), so many say little more than one.

Figures from held-out rows are then true only if whole runs are held out, because a neighbour gives a row's answer away.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..agent import effective_sample_size, number_of, shown
from .training_rows import Row, by_task

# The length of a block of time, as a multiple of the lag up to which rows are alike.
BLOCK_LENGTH = 4
MIN_BLOCKS, MAX_BLOCKS = 5, 20
MIN_MACHINES = 3
# Neighbours are alike if their distance is below this share of that of two random rows with the same answer,
_MAX_DISTANCE_SHARE = 0.8
# or if their answers agree more often than by chance, by at least this much on a scale up to 1 (Cohen's kappa).
_MIN_KAPPA = 0.4
# In both cases, the difference has to be this many standard errors.
_MIN_STANDARD_ERRORS = 5.0


def in_groups(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Each row with a group if its task's rows have groups, are of several machines or come in runs; and warnings.

    The rows must be in the order of time if they have times, otherwise in that of the file.
    """
    groups, notes = dict[int, str](), list[str]()
    for name, task_rows in by_task(rows).items():
        groups |= {id(row): row.group for row in task_rows if row.group is not None}
        ungrouped = [row for row in task_rows if row.group is None]
        are_all = len(ungrouped) == len(task_rows)
        if are_all and _has_machines(task_rows):
            groups |= {id(row): row.machine or "" for row in task_rows}
        elif ungrouped:
            sequences = _sequences(ungrouped)
            alike = next(filter(None, map(_what_is_alike, sequences)), None) if are_all else None
            # The newest rows are no fair choice if some answers are in files of their own.
            if alike is not None or not are_all or (len(sequences) > 1 and ungrouped[0].time is not None):
                blocks = [block for sequence in sequences for block in _blocks(sequence, _count_blocks(sequence))]
                groups |= {id(row): f"block {number}" for number, block in enumerate(blocks) for row in block}
                notes.append(f"task {name}: {_why_blocks(task_rows, ungrouped, alike, len(blocks))}")
        grouped = [replace(row, group=groups.get(id(row))) for row in task_rows]
        if alone := _labels_of_one_group(grouped):
            what = "machine" if all(row.group == row.machine for row in grouped) else "group"
            notes.append(
                f"task {name}: {', '.join(map(shown, alone))}: rows of one {what} alone, so the model that is "
                "judged on it has not learnt them, and none of them counts as right; if they are of several episodes "
                "or days, name these in `group`"
            )
    return [replace(row, group=groups.get(id(row))) for row in rows], notes


def _why_blocks(rows: Sequence[Row], ungrouped: Sequence[Row], alike: str | None, count: int) -> str:
    order = "in time" if rows[0].time is not None else "in the file"
    stand_in = f"{count} blocks of neighbours {order} stand in for groups"
    if alike is not None:
        return (
            f"{alike} of neighbouring rows {order} are alike, so the rows are not independent: "
            f"{stand_in}. A `group`, such as an episode, a batch or a day, is better where it is known"
        )
    if len(ungrouped) < len(rows):
        # Rows of a board come in runs, too, but are too few to show it.
        return f"{len(ungrouped)} of {len(rows)} rows have no group: {stand_in}"
    return f"some files have one answer only, so times do not say which rows to hold out: {stand_in}"


def _sequences(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in sequences that are cut into blocks separately, because one block might have all rows of a label.

    A file whose rows all have one answer, such as usual readings, is a sequence of its own, and so are rows that do not
    name their machine where others do.
    """
    if not rows[0].task.config.choices or rows[0].task.config.has_own_model:
        return [list(rows)]
    answers = defaultdict[str, set[str]](set)
    for row in rows:
        answers[row.file].add(_label(row))
    sequences = defaultdict[tuple[str, bool], list[Row]](list)
    for row in rows:
        sequences[row.file if len(answers[row.file]) == 1 else "", row.machine is None].append(row)
    return list(sequences.values())


def _labels_of_one_group(rows: Sequence[Row]) -> list[str]:
    if rows[0].task.config.has_own_model or not rows[0].task.config.choices:
        return []
    groups = defaultdict[str, set[str | None]](set)
    for row in rows:
        groups[_label(row)].add(row.group)
    return [label for label, names in groups.items() if len(names) == 1 and names != {None}]


def _has_machines(rows: Sequence[Row]) -> bool:
    """Whether there are enough machines to hold whole ones out. A model of usual readings is for those it knows."""
    if rows[0].task.config.has_own_model or any(row.machine is None for row in rows):
        return False
    if len({row.machine for row in rows}) < MIN_MACHINES:
        return False
    machines = defaultdict[str, set[str]](set)
    for row in rows:
        machines[_label(row)].add(row.machine or "")
    # With most answers of one machine alone, the figures would say nothing of the next reading of that machine.
    return sum(len(names) > 1 for names in machines.values()) * 2 > len(machines)


def sums_by_group(rows: Sequence[Row], values: Sequence[float]) -> list[tuple[float, int]]:
    """The sum and the number of each group's values. A row without a group is one by itself."""
    groups = defaultdict[str | int, list[float]](list)
    for number, (row, value) in enumerate(zip(rows, values, strict=True)):
        groups[number if row.group is None else row.group].append(value)
    return [(sum(group), len(group)) for group in groups.values()]


def effective_rows(rows: Sequence[Row], are_right: Sequence[bool]) -> float:
    """How many independent rows these are worth: all of them, unless they come in groups."""
    groups = sums_by_group(rows, are_right)
    return effective_sample_size(groups) if len(groups) < len(rows) else float(len(rows))


def _count_blocks(rows: Sequence[Row]) -> int:
    lag = 1
    while lag * BLOCK_LENGTH * MIN_BLOCKS < len(rows) and _what_is_alike(rows, 2 * lag) is not None:
        lag *= 2
    # Rows are alike at `lag`, and no longer at twice that.
    return min(max(len(rows) // (2 * lag * BLOCK_LENGTH), MIN_BLOCKS), MAX_BLOCKS)


def _what_is_alike(rows: Sequence[Row], lag: int = 1) -> str | None:
    """The answers or the values, if those of rows at this lag are more alike than chance explains."""
    if len(rows) <= lag:
        return None
    ordered = _by_machine(rows)
    labels, answers = np.unique([_label(row) for row in ordered], return_inverse=True)
    agreement = float(np.mean(answers[lag:] == answers[:-lag]))
    by_chance = float(np.sum((np.bincount(answers) / len(answers)) ** 2))
    error = np.sqrt(by_chance * (1 - by_chance) / len(answers))
    if not _is_sorted(ordered) and agreement - by_chance > max(
        _MIN_KAPPA * (1 - by_chance), _MIN_STANDARD_ERRORS * error
    ):
        return "the answers"
    places = _places(ordered)
    if not places.size:
        return None
    draw = np.random.default_rng(0)
    # Only pairs with the same answer count, because a file sorted by answer has no other neighbours.
    by_answer = [np.flatnonzero(answers == answer) for answer in range(len(labels))]
    firsts = np.flatnonzero(answers[lag:] == answers[:-lag])
    others = np.array([draw.choice(by_answer[answers[first]]) for first in firsts], dtype=np.int64)
    is_pair = others != firsts
    firsts, others = firsts[is_pair], others[is_pair]
    if len(firsts) < 2:
        return None
    near, far = np.abs(places[firsts] - places[firsts + lag]), np.abs(places[firsts] - places[others])
    # The mean of all fields tells whether there are runs, because a mere counter rises, too; the slowest field tells
    # how long they are.
    slowest = np.argmin(near.mean(axis=0) - far.mean(axis=0))
    near, far = (side.mean(axis=1) if lag == 1 else side[:, slowest] for side in (near, far))
    gap = far - near
    is_sure = gap.mean() > _MIN_STANDARD_ERRORS * gap.std() / np.sqrt(len(gap))
    return "the values" if is_sure and near.mean() < _MAX_DISTANCE_SHARE * far.mean() else None


def _places(rows: Sequence[Row]) -> npt.NDArray[np.float64]:
    """The rank of each number among the distinct values of its field, from 0 to 1: [rows, numbers]."""
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row.values):
        values = [row.values.get(name) for row in rows]
        numbers = [number_of(value) for value in values]
        if sum(number is None for number in numbers) < len(rows) / 2:
            known = np.array([np.nan if number is None else number for number in numbers])
            distinct, order = np.unique(known, return_inverse=True)
            columns.append(order / max(len(distinct) - 1, 1))
    return np.array(columns, dtype=np.float64).T


def _blocks(rows: Sequence[Row], count: int) -> list[list[Row]]:
    """Blocks of neighbouring rows of a machine.

    In a file that is sorted by answer, a block has neighbours of each answer.
    """
    ordered = _by_machine(rows)
    by_answer: dict[str, list[Row]] = {}
    is_sorted = _is_sorted(ordered)
    for row in ordered:
        by_answer.setdefault(_label(row) if is_sorted else "", []).append(row)
    blocks = defaultdict[int, list[Row]](list)
    for neighbours in by_answer.values():
        for number, row in enumerate(neighbours):
            blocks[number * count // len(neighbours)].append(row)
    return list(blocks.values())


def _by_machine(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.machine or "")


def _is_sorted(rows: Sequence[Row]) -> bool:
    """Whether the rows of each answer stand together, so that their order is no order of time."""
    changes = sum(_label(before) != _label(after) for before, after in pairwise(rows))
    return rows[0].time is None and changes < len({_label(row) for row in rows})


def _label(row: Row) -> str:
    """The answer; the same for all rows where answers are not labels, because nearly every one differs."""
    return row.answer_text if row.task.config.choices else ""
