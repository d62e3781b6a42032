"""Numbers as the page and the terminal print them: significant digits, units, 95 % intervals and what they mean."""

import math

from ..agent import UNKNOWN, share_interval
from ..agent import percent as tenth_percent
from .quality import Perplexity, TaskAccuracy

# Standard errors that hold 95 % of a normal distribution.
Z95 = 1.96


def significant(value: float | None, digits: int = 3) -> str:
    """The value with this number of significant digits; a dash for None."""
    if value is None:
        return UNKNOWN
    if value == 0 or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".replace(".e", "e").rstrip(".")


def percent(share: float | None) -> str:
    return tenth_percent(share, ".4g")


def ratio(value: float) -> str:
    """The value with four decimals if it is near 1."""
    return f"{value:.4f}" if 0.1 <= value < 100 else significant(value)


def megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.1f}" if nbytes >= 1e5 else significant(nbytes / 1e6)


def difference_interval(gained: int, lost: int, examples: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of the same examples.

    `gained` is how many examples only the first answers right, `lost` how many only the second.
    Source: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions", 2005.
    """
    more, fewer, total = gained + 0.5, lost + 0.5, examples + 2
    middle = (more - fewer) / total
    half = Z95 * math.sqrt(more + fewer - (more - fewer) ** 2 / total) / total
    return max(-1.0, middle - half), min(1.0, middle + half)


def perplexity_verdict(perplexity: Perplexity) -> str:
    """What can be said from the interval of the ratio; a ratio below 1 is not a better model."""
    low, high = perplexity.low, perplexity.high
    interval = f"95 % interval {ratio(low)} to {ratio(high)}"
    if low <= 1 <= high:
        return f"{interval}, which includes 1: no measurable difference"
    if perplexity.ratio < 1:
        return f"{interval}, below 1: this text suits the rounding, which does not make it the better model"
    return f"{interval}, above 1: a loss"


def right_answers(task: TaskAccuracy) -> str:
    low, high = share_interval(round(task.accuracy * task.examples), task.examples)
    return f"{percent(task.accuracy)} ({100 * low:.1f} to {100 * high:.1f})"


def points_gained(task: TaskAccuracy) -> str:
    """The accuracy minus the reference's in percentage points, with its interval and what can be said from that."""
    low, high = difference_interval(task.gained, task.lost, task.examples)
    points = 100 * (task.accuracy - task.reference_accuracy)
    verdict = "no measurable difference" if low <= 0 <= high else "more are right" if low > 0 else "fewer are right"
    return f"{points:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}): {verdict}"
