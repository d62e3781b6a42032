"""How far outside the range of the rows a field's numbers may be before they are odd."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..agent import number_of
from .outliers import Numbers, spread_of

# The share of later rows that should have a number outside the margins, if the largest and the smallest _TAIL_SHARE of
# each field's numbers, at least _MIN_IN_TAIL, fall off exponentially. A margin is at least _MIN_MARGIN of the spread.
_ODD_SHARE, _TAIL_SHARE, _MIN_IN_TAIL, _MIN_MARGIN = 0.003, 0.05, 10, 0.01
# All margins are widened until at most this share of the rows of each block is odd by the rows of the other blocks, but
# none is wider than _MAX_MARGIN of the range of the ordinary numbers.
_MAX_ODD_SHARE, _BLOCKS, _MAX_MARGIN = 0.02, 5, 0.5


def accepted_range(ordinary: Numbers, fields: int, widening: float) -> tuple[float, float]:
    """The range beyond which a number is odd, if so many `fields` have numbers and `widening_of` gives `widening`.

    If all numbers stay clear of 0, the range ends at half of the nearest one, because most such quantities are never 0.
    """
    (smallest, largest), min_margin = ordinary[[0, -1]].tolist(), _min_margin(ordinary)
    below, above = _margins(ordinary, min_margin, fields)
    max_margin = _MAX_MARGIN * (largest - smallest) or min_margin
    low, high = smallest - min(widening * below, max_margin), largest + min(widening * above, max_margin)
    if smallest > min_margin:
        low = max(low, smallest / 2)
    if largest < -min_margin:
        high = min(high, largest / 2)
    return low, high


def widening_of(columns: Sequence[tuple[Numbers, Sequence[Any]]]) -> float:
    """The factor by which all margins are widened. `columns` are each field's ordinary numbers and values by row."""
    worst = np.zeros(max((len(values) for _, values in columns), default=1))
    block = np.arange(len(worst)) * _BLOCKS // len(worst)
    for ordinary, values in columns:
        numbers = np.array([np.nan if (number := number_of(value)) is None else number for value in values])
        is_ordinary = (numbers >= ordinary[0]) & (numbers <= ordinary[-1])
        for index in range(_BLOCKS):
            others = np.sort(numbers[is_ordinary & (block != index)])
            if len(others):
                below, above = _margins(others, _min_margin(ordinary), len(columns))
                own = np.where(is_ordinary & (block == index), numbers, others[0])
                worst = np.maximum(worst, np.maximum((others[0] - own) / below, (own - others[-1]) / above))
    return max(1.0, float(np.quantile(worst, 1 - _MAX_ODD_SHARE, method="higher")))


def _min_margin(ordinary: Numbers) -> float:
    return _MIN_MARGIN * spread_of(ordinary)[1] or 0.1 * abs(float(ordinary[0])) or sys.float_info.min


def _margins(ordinary: Numbers, min_margin: float, fields: int) -> tuple[float, float]:
    """How far below and above the ordinary numbers later ones may be."""
    return max(_margin(-ordinary[::-1], fields), min_margin), max(_margin(ordinary, fields), min_margin)


def _margin(numbers: Numbers, fields: int) -> float:
    """How far above the numbers later ones may be; negative if so many are known that hardly any later one is above.

    The excess over a threshold is taken for exponential, with the mean of the tail.
    """
    in_tail = max(round(_TAIL_SHARE * len(numbers)), min(_MIN_IN_TAIL, len(numbers) // 2), 1)
    start = numbers[max(len(numbers) - in_tail - 1, 0)]
    mean_excess = np.mean(numbers[-in_tail:] - start)
    share_beyond = _ODD_SHARE / (2 * fields)
    return float(start + mean_excess * max(math.log(in_tail / len(numbers) / share_beyond), 0.0) - numbers[-1])
