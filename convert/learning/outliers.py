"""Numbers that are far from the others of their field, such as glitches and the error codes of sensors."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..agent import ErrorCode, InputField, number_of, shown

# A number is far from the others if it is outside their 5th and 95th percentile by this many times their spread, and
# this many times as far from the median as the next one.
_FAR, _JUMP = 2.0, 3.0
# So is the least or greatest number of a field with many distinct ones if at least _MIN_EQUAL rows have it, but at most
# a share of _MAX_EQUAL, and the gap to the next one is at least _GAP of the spread and _GAPS times the median gap.
_MIN_EQUAL, _MAX_EQUAL, _GAP, _GAPS, _MIN_DISTINCT = 3, 0.3, 0.1, 10.0, 20
# A value outside the ordinary numbers of its field is a code if this many rows have it, in any field.
MIN_CODE_ROWS = 2
Numbers = npt.NDArray[np.float64]


def outliers_of(field: InputField, values: Iterable[Any]) -> list[ErrorCode]:
    """The values that are not among the ordinary numbers of a field: other numbers, and texts such as "ERR"."""
    if field.edges is None:
        return []
    outliers: list[ErrorCode] = []
    for value in values:
        number = number_of(value)
        if number is not None:
            outliers += [] if field.edges[0] <= number <= field.edges[-1] else [number]
        elif isinstance(value, str) and not has_decimal_comma(value):
            outliers.append(value)
    return outliers


def has_decimal_comma(value: Any) -> bool:
    """Whether it is a number once its comma is a point. It is no code then, but no number for a model either."""
    return isinstance(value, str) and "," in value and number_of(value.replace(",", ".")) is not None


def code_text(code: ErrorCode) -> str:
    return shown(code) if isinstance(code, str) else f"{code:g}"


def ordinary_numbers(numbers: Numbers, codes: Collection[ErrorCode] = ()) -> Numbers:
    """Sorted numbers without those that are far from the others. `codes` of other fields need less of a gap."""
    while True:
        near = _without_code(_without_far(-_without_far(-numbers[::-1])[::-1]), codes)
        if len(near) == len(numbers):
            return numbers
        numbers = near


def without_stray_codes(numbers: Numbers, codes: Collection[ErrorCode], ordinary: Numbers) -> Numbers:
    """The numbers without codes that are few and, by the gaps between the ordinary ones, far from all others."""
    distinct, counts = np.unique(numbers, return_counts=True)
    gaps = np.diff(distinct, prepend=-np.inf, append=np.inf)
    min_gap = _GAPS * float(np.median(np.diff(np.unique(ordinary), prepend=ordinary[0])))
    is_alone = np.minimum(gaps[:-1], gaps[1:]) > min_gap
    is_stray = is_alone & np.isin(distinct, list(codes)) & (counts <= _MAX_EQUAL * len(numbers))
    return numbers[~np.isin(numbers, distinct[is_stray])]


def ordinary_by_field(numbers: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """The ordinary numbers of each field. Codes of one field need less of a gap to be left out of another."""
    far = Counter[ErrorCode]()
    for of_field in numbers.values():
        low, high = ordinary_numbers(of_field)[[0, -1]]
        far.update(of_field[(of_field < low) | (of_field > high)].tolist())
    codes = {code for code, count in far.items() if count >= MIN_CODE_ROWS}
    return {name: ordinary_numbers(of_field, codes) for name, of_field in numbers.items()}


def spread_of(numbers: Numbers) -> tuple[float, float]:
    """The 95th percentile, and how far the 5th is below it.

    They are those of the distinct numbers where these lie farther apart, because a field may be 0 in most rows; but not
    if few are distinct, because codes would then weigh too much.
    """
    low, high = np.quantile(numbers, (0.05, 0.95)).tolist()
    distinct = np.unique(numbers)
    if low == high or len(distinct) > _MIN_DISTINCT:
        others = np.quantile(distinct, (0.05, 0.95)).tolist()
        low, high = min(low, others[0]), max(high, others[1])
    return high, high - low


def _without_far(numbers: Numbers) -> Numbers:
    """The numbers without those that are far above the others."""
    high, spread = spread_of(numbers)
    distances = numbers - np.median(numbers)
    is_far = (numbers[1:] > high + _FAR * spread) & (distances[1:] > _JUMP * distances[:-1])
    return numbers[: 1 + int(np.argmax(is_far))] if spread and np.any(is_far) else numbers


def _without_code(numbers: Numbers, codes: Collection[ErrorCode]) -> Numbers:
    """The numbers without the least or the greatest, if it is apart from all others and many rows have exactly it.

    If it is a code in another field, a smaller gap and one row are enough.
    """
    distinct, counts = np.unique(numbers, return_counts=True)
    if len(distinct) <= _MIN_DISTINCT:
        return numbers
    for end, others in ((0, distinct[1:]), (-1, distinct[:-1])):
        gap = abs(distinct[end] - others[end])
        rest: Numbers = numbers[numbers != distinct[end]]
        is_known = float(distinct[end]) in codes
        min_gap = max(0.0 if is_known else _GAP * spread_of(rest)[1], _GAPS * float(np.median(np.diff(others))))
        if gap > min_gap and (1 if is_known else _MIN_EQUAL) <= counts[end] <= _MAX_EQUAL * len(numbers):
            return rest
    return numbers
