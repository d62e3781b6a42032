"""The field table of rows: how the fields of their inputs become tokens."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..agent import (
    MAX_CODES,
    USUAL_SHARES,
    ErrorCode,
    FieldTable,
    InputField,
    NumberBins,
    TaskFields,
    fingerprints_of,
    number_of,
)
from ..errors import ConvertError
from .margins import accepted_range, widening_of
from .outliers import MIN_CODE_ROWS, Numbers, ordinary_by_field, outliers_of
from .training_rows import Row, by_task

BINS = 64
ANSWER_BINS = 32
# A field is a number if at least this share of its values are numbers.
MIN_NUMBER_SHARE = 0.95


def build_table(rows: Sequence[Row]) -> FieldTable:
    """Each field of numbers gets BINS bins with about equally many rows, or one for each value if there are fewer.

    Numbers far from the others of their field have no bin. Those that several rows have are codes.
    """
    names = dict.fromkeys(name for row in rows for name in row.values)
    values = {name: [row.values[name] for row in rows if name in row.values] for name in names}
    ordinary = ordinary_by_field({name: numbers for name in names if (numbers := _numbers(values[name])) is not None})
    widening = widening_of([(numbers, [row.values.get(name) for row in rows]) for name, numbers in ordinary.items()])
    fields = [_input_field(name, ordinary.get(name), len(ordinary), widening) for name in names]
    outliers = {field.name: Counter(outliers_of(field, values[field.name])) for field in fields}
    counts = sum(outliers.values(), Counter[ErrorCode]())
    codes = tuple(code for code, count in counts.most_common(MAX_CODES) if count >= MIN_CODE_ROWS)
    # In other fields, a code says that a sensor is broken whose state no row shows.
    known = {name: tuple(code for code in codes if code in counter) for name, counter in outliers.items()}
    fields = [field.model_copy(update={"codes": known[field.name] if field.bins else None}) for field in fields]
    tasks = {name: _task_fields(task_rows, fields) for name, task_rows in by_task(rows).items()}
    return FieldTable(tasks=tasks, fields=tuple(fields), codes=codes)


def codes_and_gaps(rows: Sequence[Row]) -> list[dict[ErrorCode | None, list[int]]]:
    """For each field, the places of the rows with each of its codes, and under None those of rows without the field."""
    found = list[dict[ErrorCode | None, list[int]]]()
    for field in build_table(rows).fields:
        places = defaultdict[ErrorCode | None, list[int]](list)
        for at, row in enumerate(rows):
            if field.name not in row.values:
                places[None].append(at)
            for code in outliers_of(field, [row.values.get(field.name)]):
                if code in (field.codes or ()):
                    places[code].append(at)
        found.append(places)
    return found


def _task_fields(rows: Sequence[Row], fields: Sequence[InputField]) -> TaskFields:
    """The fields of one task. The limits of what is unlike training come later, from rows that are held out."""
    config = rows[0].task.config
    names = tuple(dict.fromkeys(name for row in rows for name in row.values))
    numbers = {field.name for field in fields if field.bins and field.name in names}
    return TaskFields(
        kind=config.kind,
        labels=config.choices,
        fields=names,
        required=tuple(name for name in names if all(name in row.values for row in rows)),
        min_numbers=min(len(row.values.keys() & numbers) for row in rows),
        number=_number_bins([row.answer for row in rows]) if config.is_number else None,
        template=config.template,
        learnt=fingerprints_of(row.text for row in rows),
    )


def _number_bins(answers: Sequence[float]) -> NumberBins:
    """Bins with about equally many rows in each, or one for each answer if they are fewer."""
    edges = np.unique(answers)
    if len(edges) > ANSWER_BINS:
        edges = np.unique(np.quantile(answers, np.linspace(0, 1, ANSWER_BINS + 1)))
    else:
        # Each in the middle of its bin, also the first and the last one, so that intervals hold them.
        middles = (edges[:-1] + edges[1:]) / 2
        ends = (2 * edges[0] - middles[0], 2 * edges[-1] - middles[-1]) if len(middles) else (edges[0], edges[0])
        edges = np.array([ends[0], *middles, ends[1]])
    if len(edges) == 2:
        # Nearly all answers are the same one.
        edges = np.array([edges[0], edges.mean(), edges[-1]])
    if np.any(np.diff(edges) <= 0):
        raise ConvertError(f"answers from {edges[0]:g} to {edges[-1]:g} are too near one another to tell them apart")
    short = [float(f"{edge:.6g}") for edge in edges.tolist()]
    return NumberBins(edges=tuple(short if len({*short}) == len(edges) else edges.tolist()))


def _input_field(name: str, ordinary: Numbers | None, fields: int, widening: float) -> InputField:
    """`ordinary` are its sorted numbers, None for a text; `fields` is how many fields are numbers."""
    if ordinary is None:
        return InputField(name=name, edges=None)
    edges = np.unique(ordinary)
    if len(edges) > BINS:
        # Values of the rows themselves, so that equal numbers share a bin.
        edges = np.unique(np.quantile(ordinary, np.linspace(0, 1, BINS + 1), method="inverted_cdf"))
    low, high = np.quantile(ordinary, USUAL_SHARES, method="inverted_cdf").tolist()
    accepted = accepted_range(ordinary, fields, widening)
    return InputField(name=name, edges=tuple(edges.tolist()), usual=(low, high), accepted=accepted)


def _numbers(values: Sequence[Any]) -> Numbers | None:
    """The sorted numbers; None if the values are texts."""
    numbers = [number for number in map(number_of, values) if number is not None]
    return np.sort(np.array(numbers)) if len(numbers) >= MIN_NUMBER_SHARE * len(values) else None
