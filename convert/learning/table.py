"""The field table of rows: how the fields of their inputs become tokens; and readings that are unlike all of them."""

from collections.abc import Sequence

import numpy as np

from ..agent import ControlToken, EstimateTask, FieldTable, InputField, NumberBins, TaskFields, number_of
from .training_rows import Row, by_task

BINS = 64
ANSWER_BINS = 32
# A field is a number if at least this share of its values are numbers.
MIN_NUMBER_SHARE = 0.95
Parts = Sequence[ControlToken | str]
NOISE_KINDS = ("any", "of other rows", "shifted")


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
    number = _number_bins([row.answer for row in rows]) if isinstance(config, EstimateTask) else None
    return TaskFields(
        kind=config.kind,
        labels=config.choices,
        fields=fields,
        most_log_odds=most_log_odds,
        number=number,
        template=config.template,
    )


def _number_bins(answers: Sequence[float]) -> NumberBins:
    """With about equally many rows in each, or one for each answer if they are fewer."""
    edges = np.unique(answers)
    if len(edges) > ANSWER_BINS:
        edges = np.unique(np.quantile(answers, np.linspace(0, 1, ANSWER_BINS + 1)))
    else:
        edges = np.array([edges[0], *(edges[:-1] + edges[1:]) / 2, edges[-1]])
    if len(edges) == 2:
        # Nearly all answers are the same one.
        edges = np.array([edges[0], edges.mean(), edges[-1]])
    return NumberBins(edges=tuple(edges.tolist()))


def _edges(values: Sequence[object]) -> tuple[float, ...] | None:
    """From the least to the greatest number; None for texts."""
    numbers = [number for number in map(number_of, values) if number is not None]
    if len(numbers) < MIN_NUMBER_SHARE * len(values):
        return None
    edges = np.unique(numbers)
    if len(edges) > BINS:
        # Values of the rows themselves, so that equal numbers share a bin.
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1), method="inverted_cdf"))
    return tuple(edges.tolist())


class Noise:
    """Draws the prompts of rows with one, some or all of their numbers changed (for noise-contrastive estimation).

    prompts: those of one task's rows, from FieldTable.parts. At least one of its fields should be a number.
    """

    def __init__(self, table: FieldTable, prompts: Sequence[Parts], draw: np.random.Generator) -> None:
        self._draw = draw
        self._bins = {state: field.bins for field in table.fields if field.bins for state in field.controls}
        self._numbers = [[part for part in parts if part in self._bins] for parts in prompts]
        self._prompts = prompts

    def prompt(self) -> list[ControlToken | str]:
        """A row's prompt. Changed numbers are random, from other rows, or all shifted by one share of their bins."""
        row = self._random_index(len(self._prompts))
        numbers, kind, shift = list(self._numbers[row]), self._draw.choice(NOISE_KINDS), self._draw.uniform(-1, 1)
        for at in self._draw.permutation(len(numbers))[: 1 + self._random_index(len(numbers))].tolist():
            bins = self._bins[numbers[at]]
            if kind == "any":
                numbers[at] = bins[self._random_index(len(bins))]
            elif kind == "of other rows":
                numbers[at] = self._numbers[self._random_index(len(self._numbers))][at]
            elif numbers[at] in bins:
                moved = bins.index(numbers[at]) + round(shift * len(bins))
                numbers[at] = bins[min(max(moved, 0), len(bins) - 1)]
        drawn = iter(numbers)
        return [next(drawn) if part in self._bins else part for part in self._prompts[row]]

    def _random_index(self, end: int) -> int:
        return int(self._draw.integers(end))
