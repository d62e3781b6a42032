"""PURE. What a figure with its 95 % interval lets be said, in the same words on the page and on a terminal."""

from .figures import NO_BREAK, percent, ratio, signed
from .quality import Perplexity, Task


def perplexity_verdict(perplexity: Perplexity) -> str:
    """Nobody shall take a ratio below 1 for a model that is better than the one it was made of."""
    low, high = perplexity.low, perplexity.high
    if low is None or high is None:
        return "no interval is known"
    interval = f"95 % interval {ratio(low)} to {ratio(high)}"
    if perplexity.is_undecided:
        return f"{interval}, which includes 1: no difference that can be told"
    if perplexity.ratio < 1:
        return f"{interval}, below 1: this text suits the rounding, which does not make it the better model"
    return f"{interval}, above 1: a loss"


def share_of_right(task: Task) -> str:
    """With its interval."""
    low, high = task.interval
    return f"{percent(task.accuracy)} {_interval(f'{100 * low:.1f}', f'{100 * high:.1f}')}"


def points_of_right(task: Task) -> str:
    """The accuracy less the reference's, which is known, in points; with its interval where the pairs are known."""
    assert task.reference_accuracy is not None
    told = signed(100 * (task.accuracy - task.reference_accuracy))
    if task.difference_interval is None:
        return told
    low, high = task.difference_interval
    return f"{told} {_interval(signed(100 * low), signed(100 * high))}"


def _interval(low: str, high: str) -> str:
    return f"({low}{NO_BREAK}to{NO_BREAK}{high})"


def difference_verdict(task: Task) -> str:
    """What the points are worth."""
    if task.difference_interval is None:
        return "no interval is known"
    low, high = task.difference_interval
    if low <= 0 <= high:
        return "no difference that can be told"
    return "more are right" if low > 0 else "fewer are right"
