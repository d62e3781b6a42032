"""How sure a share or a mean is if the values come in groups, such as the readings of a day, that are alike.

Many values of few groups say little more than as many values as there are groups. What counts is how far the groups
are from each other: the variance of a ratio by groups, with Student's t for their number. This is as a bootstrap of
whole groups has it, but holds with few groups, too, where that is too narrow. For shares: Korn and Graubard,
"Confidence intervals for proportions with small expected number of positive counts estimated from survey data", 1998.
"""

import math
from collections.abc import Sequence

from edge_agent.learning.maths.shares import CONFIDENCE, chance_of_at_least

# Of one group: the sum of its values (of right answers, for a share), and how many they are.
Group = tuple[float, int]
_BISECTIONS = 60


def independent_rows(groups: Sequence[Group]) -> float:
    """How many independent answers say as much about the share of right ones as these; as many as there are, at most.

    Intervals of the share follow with `shares.interval`. Where all answers are right, or none is, groups cannot be told
    apart, and only their number counts.
    """
    total = sum(count for _, count in groups)
    share = sum(right for right, _ in groups) / total
    if len(groups) < 2:
        return 1.0
    variance = _variance(groups)
    worth = total if variance == 0 else min(share * (1 - share) / variance, total)
    return max(worth * (_quantile(total - 1) / _quantile(len(groups) - 1)) ** 2, 1.0)


def mean_interval(groups: Sequence[Group]) -> tuple[float, float]:
    """The two-sided interval of the mean of all values at CONFIDENCE. Infinite for fewer than two groups."""
    mean = sum(total for total, _ in groups) / sum(count for _, count in groups)
    if len(groups) < 2:
        return -math.inf, math.inf
    side = _quantile(len(groups) - 1) * math.sqrt(_variance(groups))
    return mean - side, mean + side


def _variance(groups: Sequence[Group]) -> float:
    """Of the mean of all values, from how far the groups' sums are from what their numbers lead one to expect."""
    total = sum(count for _, count in groups)
    mean = sum(value for value, _ in groups) / total
    residuals = [value - mean * count for value, count in groups]
    return len(groups) / (len(groups) - 1) * sum(residual**2 for residual in residuals) / total**2


def _quantile(freedom: int) -> float:
    """Of Student's t, two-sided at CONFIDENCE."""
    low, high = 0.0, 100.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        # The incomplete beta function of 1/2 and half the degrees of freedom.
        beyond = chance_of_at_least(freedom / 2, (freedom - 1) / 2, freedom / (freedom + middle**2))
        low, high = (middle, high) if beyond > 1 - CONFIDENCE else (low, middle)
    return low
