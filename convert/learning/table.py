"""Makes the field table of rows: how the fields of their inputs become tokens."""

from collections.abc import Sequence

import numpy as np

from ..agent import FieldTable, InputField, TaskFields, number_of
from .training_rows import Row, by_task

BINS = 64
# A field is a number if so many of its values are.
NUMBERS = 0.95


def build_table(rows: Sequence[Row]) -> FieldTable:
    """Each number gets BINS bins of about equally many rows, or one for each of its values if they are fewer."""
    values: dict[str, list[object]] = {}
    for row in rows:
        for name, value in row.values.items():
            values.setdefault(name, []).append(value)
    fields = tuple(InputField(name=name, edges=_edges(of_field)) for name, of_field in values.items())
    numbers = frozenset(field.name for field in fields if field.bins)
    tasks = {name: _task_fields(of_task, numbers) for name, of_task in by_task(rows).items()}
    return FieldTable(tasks=tasks, fields=fields)


def _task_fields(rows: Sequence[Row], numbers: frozenset[str]) -> TaskFields:
    """Of one task. numbers: names. The limits of what is unlike training come from rows that are held out, later."""
    fields, config = tuple(dict.fromkeys(name for row in rows for name in row.values)), rows[0].task.config
    most_log_odds = 0.0 if config.choices and numbers.intersection(fields) else None
    return TaskFields(kind=config.kind, labels=config.choices, fields=fields, most_log_odds=most_log_odds)


def _edges(values: Sequence[object]) -> tuple[float, ...] | None:
    """From the least to the greatest number; None for texts."""
    numbers = [number for number in map(number_of, values) if number is not None]
    if len(numbers) < NUMBERS * len(values):
        return None
    edges = np.unique(numbers)
    if len(edges) > BINS:
        # Values of the rows themselves, so that equal numbers share a bin.
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1), method="inverted_cdf"))
    return tuple(edges.tolist())
