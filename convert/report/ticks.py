"""PURE. Round numbers for axes and colour steps: 1, 2 or 5 times a power of ten."""

import math
from itertools import pairwise

_STEPS = (1, 2, 5)


def round_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """At most `most` (2 or more) evenly spaced multiples of a round step, all from `low` to `high`."""
    if not high > low:
        return (low,)
    exponent = math.floor(math.log10((high - low) / most)) - 1
    while True:
        for step in _STEPS:
            first, last = math.ceil(low / scaled(step, exponent)), math.floor(high / scaled(step, exponent))
            if last - first < most:
                ticks = (scaled(step * count, exponent) for count in range(first, last + 1))
                # Where low and high are nearly the same, dividing rounds across them.
                return tuple(tick for tick in ticks if low <= tick <= high) or (low,)
        exponent += 1


def log_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """At most `most` round numbers from `low` to `high`, both above 0, for a logarithmic axis.

    1, 2 and 5 times powers of ten, or powers of ten only, or every second one of them, and so on.
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [scaled(step, exponent) for exponent in exponents for step in _STEPS]
    for every in (1, 3, *range(6, 3 * len(exponents) + 1, 3)):
        found = tuple(tick for tick in fine[::every] if low <= tick <= high)
        if len(found) <= most:
            break
    # Within a factor of two there may be only one of them, which tells nothing of the scale.
    return found if len(found) > 1 else round_ticks(low, high, most)


def scaled(step: int, exponent: int) -> float:
    """step * 10^exponent, the float nearest to it, so that it reads as 0.3 and not as 0.30000000000000004."""
    return float(step * 10**exponent) if exponent >= 0 else step / 10**-exponent


def level(value: float, edges: tuple[float, ...]) -> int:
    """How many of the rising `edges` are at `value` or below."""
    assert all(lower < higher for lower, higher in pairwise(edges))
    return sum(edge <= value for edge in edges)
