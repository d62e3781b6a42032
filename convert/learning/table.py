"""The field table of rows: how the fields of their inputs become tokens; and readings that are unlike all of them."""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..agent import (
    MAX_CODES,
    USUAL_SHARES,
    ControlToken,
    ErrorCode,
    FieldTable,
    InputField,
    NumberBins,
    TaskFields,
    code_control,
    fingerprints_of,
    number_of,
    shown,
)
from ..errors import ConvertError
from .training_rows import Row, by_task

BINS = 64
ANSWER_BINS = 32
# A field is a number if at least this share of its values are numbers.
MIN_NUMBER_SHARE = 0.95
# A value that lies outside of the ordinary numbers of its field is a code if so many rows have it, in any field.
MIN_CODE_ROWS = 2
# A number is far from the others if it is beyond their 5th or 95th percentile by this many times their spread, and this
# many times as far from the median as the next one.
_FAR, _JUMP = 2.0, 3.0
# So is the least or greatest number if so many rows have exactly it, but at most this share, and the next one is this
# share of the spread away, and this many times the usual distance of neighbours, of which there are so many.
_MIN_EQUAL, _MAX_EQUAL, _GAP, _GAPS, _MIN_DISTINCT = 3, 0.3, 0.1, 10.0, 20
# Accepted ranges end where this share of the rows would be odd if the greatest and the least numbers of each field, of
# which there are so many, fell off exponentially; but a margin is at least this share of the spread.
_ODD_SHARE, _TAIL_SHARE, _MIN_IN_TAIL, _MIN_MARGIN = 0.003, 0.05, 10, 0.01
# All margins are wider by the factor that it takes so that at most this share of the rows of blocks is odd beside the
# other blocks. None is wider than this share of the range of the ordinary numbers.
_MAX_ODD_SHARE, _BLOCKS, _MAX_MARGIN = 0.02, 5, 0.5
Numbers = npt.NDArray[np.float64]
Parts = Sequence[ControlToken | str]
NOISE_KINDS = ("any", "of other rows", "shifted")


def build_table(rows: Sequence[Row]) -> FieldTable:
    """Each number gets BINS bins of about equally many rows, or one for each of its values if they are fewer.

    Numbers far from the others of their field have no bin. Those that several rows have are codes.
    """
    names = dict.fromkeys(name for row in rows for name in row.values)
    values = {name: [row.values[name] for row in rows if name in row.values] for name in names}
    ordinary = {name: ordinary_numbers(of_field) for name in names if (of_field := _numbers(values[name])) is not None}
    widening = _widening([(numbers, [row.values.get(name) for row in rows]) for name, numbers in ordinary.items()])
    fields = [_input_field(name, ordinary.get(name), len(ordinary), widening) for name in names]
    outliers = {field.name: Counter(outliers_of(field, values[field.name])) for field in fields}
    counts = sum(outliers.values(), Counter[ErrorCode]())
    codes = tuple(code for code, count in counts.most_common(MAX_CODES) if count >= MIN_CODE_ROWS)
    # The code of one field may be an ordinary number of others, or say that they are broken, such as 0.
    shared = {code for code in codes if sum(code in of_field for of_field in outliers.values()) > 1}
    known = {
        name: tuple(code for code in codes if code in shared | of_field.keys()) for name, of_field in outliers.items()
    }
    fields = [field.model_copy(update={"codes": known[field.name] if field.bins else None}) for field in fields]
    tasks = {name: _task_fields(of_task, fields, codes) for name, of_task in by_task(rows).items()}
    return FieldTable(tasks=tasks, fields=tuple(fields), codes=codes)


def _task_fields(rows: Sequence[Row], fields: Sequence[InputField], codes: Sequence[ErrorCode]) -> TaskFields:
    """Of one task. The limits of what is unlike training come from rows that are held out, later."""
    config = rows[0].task.config
    names = tuple(dict.fromkeys(name for row in rows for name in row.values))
    by_name = {field.name: field for field in fields if field.name in names}
    numbers = {name for name, field in by_name.items() if field.bins}
    # A text in a number says no more than a missing one, unless it is a code.
    known = [
        {name for name, value in row.values.items() if name not in numbers or _is_read(by_name[name], value, codes)}
        for row in rows
    ]
    return TaskFields(
        kind=config.kind,
        labels=config.choices,
        fields=names,
        most_log_odds=0.0 if config.choices and numbers else None,
        required=tuple(name for name in names if all(name in of_row for of_row in known)),
        min_numbers=min(len(of_row & numbers) for of_row in known),
        number=_number_bins([row.answer for row in rows]) if config.is_number else None,
        template=config.template,
        learnt=fingerprints_of(row.text for row in rows),
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
    if np.any(np.diff(edges) <= 0):
        raise ConvertError(f"answers from {edges[0]:g} to {edges[-1]:g} are too near one another to tell them apart")
    short = [float(f"{edge:.6g}") for edge in edges.tolist()]
    return NumberBins(edges=tuple(short if len({*short}) == len(edges) else edges.tolist()))


def _is_read(field: InputField, value: Any, codes: Sequence[ErrorCode]) -> bool:
    return number_of(value) is not None or field.code_of(value, codes) is not None


def _input_field(name: str, ordinary: Numbers | None, fields: int, widening: float) -> InputField:
    """ordinary: its sorted numbers; None for a text. fields: how many fields are numbers."""
    if ordinary is None:
        return InputField(name=name, edges=None)
    edges = np.unique(ordinary)
    if len(edges) > BINS:
        # Values of the rows themselves, so that equal numbers share a bin.
        edges = np.unique(np.quantile(ordinary, np.linspace(0, 1, BINS + 1), method="inverted_cdf"))
    low, high = np.quantile(ordinary, USUAL_SHARES, method="inverted_cdf").tolist()
    accepted = _accepted(ordinary, fields, widening)
    return InputField(name=name, edges=tuple(edges.tolist()), usual=(low, high), accepted=accepted)


def _accepted(ordinary: Numbers, fields: int, widening: float) -> tuple[float, float]:
    """Where numbers stay clear of 0, not beyond half of the nearest one: most are of things that are never 0."""
    (least, greatest), clear = ordinary[[0, -1]].tolist(), _min_margin(ordinary)
    below, above = _margins(ordinary, clear, fields)
    widest = _MAX_MARGIN * (greatest - least) or clear
    low, high = least - min(widening * below, widest), greatest + min(widening * above, widest)
    return max(low, least / 2) if least > clear else low, min(high, greatest / 2) if greatest < -clear else high


def _numbers(values: Sequence[Any]) -> Numbers | None:
    """Sorted; None for texts."""
    numbers = [number for number in map(number_of, values) if number is not None]
    return np.sort(np.array(numbers)) if len(numbers) >= MIN_NUMBER_SHARE * len(values) else None


def outliers_of(field: InputField, values: Iterable[Any]) -> list[ErrorCode]:
    """Values of a number that are not among its ordinary numbers: other numbers, and texts such as "ERR"."""
    if field.edges is None:
        return []
    outliers: list[ErrorCode] = []
    for value in values:
        number = number_of(value)
        if number is not None:
            outliers += [] if field.edges[0] <= number <= field.edges[-1] else [number]
        elif isinstance(value, str) and number_of(value.replace(",", ".")) is None:  # a decimal comma is no code
            outliers.append(value)
    return outliers


def code_text(code: ErrorCode) -> str:
    return shown(code) if isinstance(code, str) else f"{code:g}"


def ordinary_numbers(numbers: Numbers) -> Numbers:
    """Sorted numbers without those that are far from the others."""
    while True:
        near = _without_code(_without_far(-_without_far(-numbers[::-1])[::-1]))
        if len(near) == len(numbers):
            return numbers
        numbers = near


def _spread(numbers: Numbers) -> tuple[float, float]:
    """The 95th percentile, and how far the 5th is below it. Of the different numbers, where these lie farther apart.

    A field may be 0 in most rows. Of few different numbers, codes are too many.
    """
    low, high = np.quantile(numbers, (0.05, 0.95)).tolist()
    distinct = np.unique(numbers)
    if low == high or len(distinct) > _MIN_DISTINCT:
        others = np.quantile(distinct, (0.05, 0.95)).tolist()
        low, high = min(low, others[0]), max(high, others[1])
    return high, high - low


def _without_far(numbers: Numbers) -> Numbers:
    """Without numbers that are far above the others."""
    high, spread = _spread(numbers)
    distances = numbers - np.median(numbers)
    is_far = (numbers[1:] > high + _FAR * spread) & (distances[1:] > _JUMP * distances[:-1])
    return numbers[: 1 + int(np.argmax(is_far))] if spread and np.any(is_far) else numbers


def _without_code(numbers: Numbers) -> Numbers:
    """Without the least or the greatest number, if many rows have exactly it and it is apart from all others."""
    distinct, counts = np.unique(numbers, return_counts=True)
    if len(distinct) <= _MIN_DISTINCT:
        return numbers
    for end, others in ((0, distinct[1:]), (-1, distinct[:-1])):
        gap = abs(distinct[end] - others[end])
        rest: Numbers = numbers[numbers != distinct[end]]
        is_apart = gap > max(_GAP * _spread(rest)[1], _GAPS * float(np.median(np.diff(others))))
        if is_apart and _MIN_EQUAL <= counts[end] <= _MAX_EQUAL * len(numbers):
            return rest
    return numbers


def _min_margin(ordinary: Numbers) -> float:
    return _MIN_MARGIN * _spread(ordinary)[1] or 0.1 * abs(float(ordinary[0])) or sys.float_info.min


def _margins(ordinary: Numbers, least: float, fields: int) -> tuple[float, float]:
    """How far below and above them later numbers may be, see _ODD_SHARE; at least `least`."""
    return max(_margin(-ordinary[::-1], fields), least), max(_margin(ordinary, fields), least)


def _margin(numbers: Numbers, fields: int) -> float:
    """How far above them; less than 0 where so many are known that later ones are hardly ever above them all."""
    in_tail = max(round(_TAIL_SHARE * len(numbers)), min(_MIN_IN_TAIL, len(numbers) // 2), 1)
    start = numbers[max(len(numbers) - in_tail - 1, 0)]
    mean_excess = np.mean(numbers[-in_tail:] - start)
    rows_beyond = _ODD_SHARE / (2 * fields)
    return float(start + mean_excess * max(math.log(in_tail / len(numbers) / rows_beyond), 0.0) - numbers[-1])


def _widening(columns: Sequence[tuple[Numbers, Sequence[Any]]]) -> float:
    """By which factor margins are wider. columns: of each number its ordinary ones, and its values by row."""
    worst = np.zeros(max((len(values) for _, values in columns), default=1))
    block = np.arange(len(worst)) * _BLOCKS // len(worst)
    for ordinary, values in columns:
        numbers = np.array([np.nan if (number := number_of(value)) is None else number for value in values])
        is_ordinary = (numbers >= ordinary[0]) & (numbers <= ordinary[-1])
        for at in range(_BLOCKS):
            others = np.sort(numbers[is_ordinary & (block != at)])
            if len(others):
                below, above = _margins(others, _min_margin(ordinary), len(columns))
                mine = np.where(is_ordinary & (block == at), numbers, others[0])
                worst = np.maximum(worst, np.maximum((others[0] - mine) / below, (mine - others[-1]) / above))
    return max(1.0, float(np.quantile(worst, 1 - _MAX_ODD_SHARE, method="higher")))


class Noise:
    """Draws the prompts of rows with one, some or all of their numbers changed (for noise-contrastive estimation).

    prompts: those of one task's rows, from FieldTable.parts. At least one of its fields should be a number.
    """

    def __init__(self, table: FieldTable, prompts: Sequence[Parts], draw: np.random.Generator) -> None:
        self._draw = draw
        bins = {state: field.bins for field in table.fields if field.bins for state in field.controls}
        # Tokens of numbers; those of codes are the same in all fields.
        self._states = {*bins, *map(code_control, range(len(table.codes)))}
        self._numbers = [[part for part in parts if part in self._states] for parts in prompts]
        self._bins = [
            next(bins[part] for part in of_field if part in bins) for of_field in zip(*self._numbers, strict=True)
        ]
        self._prompts = prompts

    def prompt(self) -> list[ControlToken | str]:
        """A row's prompt. Changed numbers are random, from other rows, or all shifted by one share of their bins."""
        row = self._random_index(len(self._prompts))
        numbers, kind, shift = list(self._numbers[row]), self._draw.choice(NOISE_KINDS), self._draw.uniform(-1, 1)
        for at in self._draw.permutation(len(numbers))[: 1 + self._random_index(len(numbers))].tolist():
            bins = self._bins[at]
            if kind == "any":
                numbers[at] = bins[self._random_index(len(bins))]
            elif kind == "of other rows":
                numbers[at] = self._numbers[self._random_index(len(self._numbers))][at]
            elif numbers[at] in bins:
                moved = bins.index(numbers[at]) + round(shift * len(bins))
                numbers[at] = bins[min(max(moved, 0), len(bins) - 1)]
        drawn = iter(numbers)
        return [next(drawn) if part in self._states else part for part in self._prompts[row]]

    def _random_index(self, end: int) -> int:
        return int(self._draw.integers(end))
