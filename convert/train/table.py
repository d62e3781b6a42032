"""Makes the field table of rows: how the fields of their inputs become tokens."""

from collections.abc import Sequence

import numpy as np

from ..agent import ClassifyTask, FieldTable, InputField, TaskFields, number_of
from .rows import Row, by_task

BINS = 64
# A field is a number if so many of its values are.
NUMBERS = 0.95


def build_table(rows: Sequence[Row]) -> FieldTable:
    """Each number gets BINS bins of about equally many rows, or one for each of its values if they are fewer."""
    values: dict[str, list[object]] = {}
    for row in rows:
        for name, value in row.values.items():
            values.setdefault(name, []).append(value)
    return FieldTable(
        tasks={
            name: TaskFields(
                kind="classify" if isinstance(config := of_task[0].task.config, ClassifyTask) else "extract",
                labels=config.labels if isinstance(config, ClassifyTask) else (),
                fields=tuple(dict.fromkeys(name for row in of_task for name in row.values)),
            )
            for name, of_task in by_task(rows).items()
        },
        fields=tuple(InputField(name=name, edges=_edges(found)) for name, found in values.items()),
    )


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
