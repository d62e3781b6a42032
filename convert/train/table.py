"""Learns from rows how the fields of their inputs become tokens."""

from collections.abc import Sequence

import numpy as np

from ..agent import ClassifyTask, FieldTable, InputField, TaskFields, number_of, values_of
from .rows import TIME_KEYS, Row, tasks_of

_BINS = 64
# A field is a number if so many of its values are.
_NUMBERS = 0.95


def learn_table(rows: Sequence[Row]) -> FieldTable:
    """Each number gets _BINS bins of about equally many rows; fewer where it has fewer values."""
    values: dict[str, list[object]] = {}
    tasks = tasks_of(rows)
    of_tasks: dict[str, dict[str, None]] = {name: {} for name in tasks}
    for row in rows:
        for name, value in values_of(row.text).items():
            if name not in TIME_KEYS:
                values.setdefault(name, []).append(value)
                of_tasks[row.task.name][name] = None
    return FieldTable(
        tasks={
            name: TaskFields(
                labels=task.config.labels if isinstance(task.config, ClassifyTask) else None,
                fields=tuple(of_tasks[name]),
            )
            for name, task in tasks.items()
        },
        fields=tuple(InputField(name=name, limits=_limits(found)) for name, found in values.items()),
    )


def _limits(values: Sequence[object]) -> tuple[float, ...] | None:
    numbers = [number for number in map(number_of, values) if number is not None]
    if len(numbers) < _NUMBERS * len(values):
        return None
    limits = np.unique(numbers)
    if len(limits) > _BINS:
        # Values of the rows themselves, so that equal numbers share a bin.
        limits = np.unique(np.quantile(numbers, np.linspace(0, 1, _BINS + 1), method="inverted_cdf"))
    return tuple(limits.tolist())
