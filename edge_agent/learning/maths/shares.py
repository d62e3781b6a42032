"""Exact bounds on a share, such as that of right answers, from a sample of it.

C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
1934: bounds that hold at least as often as stated, whatever the share and however small the sample. Approximations such
as Wilson's hold that often only on average, and less often where nearly all answers are right.
"""

import math
from bisect import bisect_left

CONFIDENCE = 0.95

_BISECTIONS = 50
# Far more than a board keeps. If answers are not right often enough, no number of audits proves the target.
_MAX_MISSING = 1 << 20
# A continued fraction ends when a step changes the result by less than this share.
_PRECISION = 1e-14
_TINY = 1e-300


def interval(right: float, total: float) -> tuple[float, float]:
    """The two-sided interval at CONFIDENCE."""
    side = (1 + CONFIDENCE) / 2
    return lower_bound(right, total, side), upper_bound(right, total, side)


def lower_bound(right: float, total: float, confidence: float) -> float:
    """The one-sided bound on the chance of a right answer; 0 where there are none.

    Between whole numbers of right answers the bound rises steadily.
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if chance_of_at_least(right, total, middle) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def upper_bound(right: float, total: float, confidence: float) -> float:
    """As `lower_bound`, from above."""
    return 1 - lower_bound(total - right, total, confidence)


def missing_audits(right: int, total: int, target: float, confidence: float) -> int:
    """How many more right answers lift the lower bound to the target."""
    return bisect_left(
        range(_MAX_MISSING),
        True,
        key=lambda more: chance_of_at_least(right + more, total + more, target) <= 1 - confidence,
    )


def chance_of_at_least(right: float, total: float, chance: float) -> float:
    """The chance of at least `right` right answers among `total`, each of which is right with `chance` (0 to 1)."""
    if right <= 0:
        return 1.0
    a, b = right, total - right + 1
    weight = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(chance) + b * math.log1p(-chance)
    )
    # The fraction converges fast below the mean of the beta distribution.
    if chance < (a + 1) / (a + b + 2):
        return weight / a * _fraction(a, b, chance)
    return 1 - weight / b * _fraction(b, a, 1 - chance)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method."""
    result, c, d, change, step = 1.0, 1.0, 0.0, 0.0, 0
    while abs(change - 1) > _PRECISION:
        step += 1
        half = step // 2
        if step % 2:
            term = -(a + half) * (a + b + half) * x / ((a + step - 1) * (a + step))
        else:
            term = half * (b - half) * x / ((a + step - 1) * (a + step))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        change = c * d
        result *= change
    return 1 / result
