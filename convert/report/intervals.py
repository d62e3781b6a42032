"""PURE. How much chance there is in shares of few examples: 95 % intervals."""

import math

_Z95 = 1.96


def share_interval(right: int, examples: int) -> tuple[float, float]:
    """Of a share, `right` of `examples` (1 or more); both ends are from 0 to 1.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, weight = right / examples, _Z95**2 / examples
    middle = share + weight / 2
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4)
    return max(0.0, (middle - half) / (1 + weight)), min(1.0, (middle + half) / (1 + weight))


def difference_interval(gained: int, lost: int, examples: int) -> tuple[float, float]:
    """Of the difference of two shares of the same examples, of which one alone has `gained`, the other alone `lost`.

    Source: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions", 2005.
    """
    more, fewer, total = gained + 0.5, lost + 0.5, examples + 2
    middle = (more - fewer) / total
    half = _Z95 * math.sqrt(more + fewer - (more - fewer) ** 2 / total) / total
    return max(-1.0, middle - half), min(1.0, middle + half)
