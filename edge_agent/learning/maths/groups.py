"""How sure a share or a mean is if its values come in groups (clusters), such as the readings of a day.

Values of a group are alike, so many values of few groups say little more than one value of each. The variance therefore
comes from how much groups differ (the linearized variance of a ratio), with Student's t for their number. A bootstrap
of whole groups agrees where there are many, and is too narrow where there are few. For shares: Korn and Graubard,
"Confidence intervals for proportions with small expected number of positive counts estimated from survey data", 1998.
"""

import math
from collections.abc import Sequence

from edge_agent.learning.maths.shares import CONFIDENCE, chance_of_at_least

# The sum of a group's values, and their number. For a share, a right answer is 1 and any other 0.
Group = tuple[float, int]
_BISECTIONS = 60


def effective_sample_size(groups: Sequence[Group]) -> float:
    """The number of independent answers that would say as much about the share of right ones, for `shares.interval`.

    It is at most the number of answers. Where all answers are right, or none is, how much groups differ is unknown, and
    only their number counts.
    """
    total = sum(count for _, count in groups)
    share = sum(right for right, _ in groups) / total
    if len(groups) < 2:
        return 1.0
    variance = _variance(groups)
    size = total if variance == 0 else min(share * (1 - share) / variance, total)
    return max(size * (_quantile(total - 1) / _quantile(len(groups) - 1)) ** 2, 1.0)


def mean_interval(groups: Sequence[Group]) -> tuple[float, float]:
    """The two-sided interval of the mean of all values at CONFIDENCE. Infinite for fewer than two groups."""
    mean = sum(total for total, _ in groups) / sum(count for _, count in groups)
    if len(groups) < 2:
        return -math.inf, math.inf
    side = _quantile(len(groups) - 1) * math.sqrt(_variance(groups))
    return mean - side, mean + side


def _variance(groups: Sequence[Group]) -> float:
    """The variance of the mean of all values, from how far each group's sum is from the mean times its number."""
    total = sum(count for _, count in groups)
    mean = sum(value for value, _ in groups) / total
    residuals = [value - mean * count for value, count in groups]
    return len(groups) / (len(groups) - 1) * sum(residual**2 for residual in residuals) / total**2


def _quantile(freedom: int) -> float:
    """The two-sided quantile of Student's t at CONFIDENCE."""
    low, high = 0.0, 100.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        # The incomplete beta function of 1/2 and half the degrees of freedom.
        beyond = chance_of_at_least(freedom / 2, (freedom - 1) / 2, freedom / (freedom + middle**2))
        low, high = (middle, high) if beyond > 1 - CONFIDENCE else (low, middle)
    return low
