"""Says when a task's answers have become worse, and when its inputs have changed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist

# Older audits are ignored, which bounds the time of a test.
MAX_AUDITS = 1000
# Audits before the earliest drop that is considered: a few lucky first ones say little about the accuracy before.
MIN_BEFORE = 50
# Accuracies from 0.0025 to 0.9975, evenly spaced in log odds.
_LEVELS = tuple(1 / (1 + math.exp(-step / 4)) for step in range(-24, 25))
# The share of the accuracy that is left after the drop to look for. Larger drops are seen sooner, smaller ones later.
_REMAINING_SHARE = 0.7
# By simulation (rigs/promises.py): at most one false alarm in 8,760 audits, whatever the accuracy.
_ALARM = 30_000.0
_LARGEST = 1e200

# A bin of the rarer sample counts alone from this many expected answers on.
_MIN_EXPECTED = 5.0
# One false alarm in a year of hourly tests.
_FALSE_ALARM_CHANCE = 1 / 8760


@dataclass(frozen=True, slots=True)
class Drop:
    before: float  # The accuracy before it.
    right: int  # Of the audits after it.
    audits: int  # How many these are.


def find_drop(outcomes: Sequence[bool]) -> Drop | None:
    """The drop of the accuracy within these audits, None if none is proven; to be called after each audit.

    `outcomes` says whether each audit drawn at random since the last drop is right, oldest first; those beyond
    MAX_AUDITS are ignored. There is at most one false alarm in 8,760 audits.

    Shiryaev and Roberts' statistic sums, over each moment at which accuracy may have dropped by three tenths, how much
    likelier the audits are with the drop than without (e-detectors, arXiv 2203.03532). The accuracy before is unknown:
    the test takes the mean of the statistic over levels, weighted by their likelihood without a drop.
    """
    newest = outcomes[-MAX_AUDITS:]
    return _likeliest_drop(newest) if _evidence(newest) >= _ALARM else None


def _evidence(outcomes: Sequence[bool]) -> float:
    right = sum(outcomes)
    logs = [right * math.log(level) + (len(outcomes) - right) * math.log1p(-level) for level in _LEVELS]
    weights = [math.exp(log_weight - max(logs)) for log_weight in logs]
    later = outcomes[MIN_BEFORE:]
    pairs = zip(weights, _LEVELS, strict=True)
    return sum(weight * _evidence_at(level, later) for weight, level in pairs) / sum(weights)


def _evidence_at(level: float, outcomes: Sequence[bool]) -> float:
    """Shiryaev and Roberts' statistic for a drop from this known level, at most _LARGEST."""
    factors = (1 - _REMAINING_SHARE * level) / (1 - level), _REMAINING_SHARE
    total = 0.0
    for is_right in outcomes:
        total = (1 + total) * factors[is_right]
    return min(total, _LARGEST)


def _likeliest_drop(outcomes: Sequence[bool]) -> Drop | None:
    sums = [0, *accumulate(outcomes)]
    total = len(outcomes)

    def log_likelihood(at: int) -> float:
        return _log_likelihood(sums[at], at) + _log_likelihood(sums[-1] - sums[at], total - at)

    falling = (at for at in range(1, total) if sums[at] * (total - at) > (sums[-1] - sums[at]) * at)
    at = max(falling, key=log_likelihood, default=None)
    return None if at is None else Drop(sums[at] / at, sums[-1] - sums[at], total - at)


def _log_likelihood(right: int, total: int) -> float:
    """The log-likelihood of audits at their own mean."""
    return sum(count * math.log(count / total) for count in (right, total - right) if count)


def distribution_shift(reference: Mapping[str, int], recent: Mapping[str, int], *, tests: int = 1) -> float | None:
    """The population stability index of two histograms (bin to count); None if chance explains the difference.

    By a G-test, which errs once in 8,760 independent pairs, also if each needs so many `tests`; it pools rare bins. An
    index above 0.25 is commonly called a large shift. Without any audit it sees that the best labels, confidences,
    lengths of prompts or fields have another mix than before. It does not see answers that become wrong while the mix
    stays, such as two labels swapped that are equally frequent; and another mix may be answered as well as the old one.
    """
    totals = sum(reference.values()), sum(recent.values())
    pairs: list[tuple[int, int]] = []
    rare = (0, 0)
    for name in reference.keys() | recent.keys():
        pair = reference.get(name, 0), recent.get(name, 0)
        if sum(pair) * min(totals) >= _MIN_EXPECTED * sum(totals):
            pairs.append(pair)
        else:
            rare = rare[0] + pair[0], rare[1] + pair[1]
    pairs += [rare] if sum(rare) else []
    if len(pairs) < 2 or not all(totals):
        return None
    statistic = 2 * sum(
        count * math.log(count * sum(totals) / (sum(pair) * total))
        for pair in pairs
        for count, total in zip(pair, totals, strict=True)
        if count
    )
    if _chi_squared_tail(statistic, len(pairs) - 1) > _FALSE_ALARM_CHANCE / tests:
        return None
    # Half a count more keeps the logarithm of an empty bin finite.
    old, new = ([(pair[side] + 0.5) / (totals[side] + len(pairs) / 2) for pair in pairs] for side in (0, 1))
    return math.fsum((after - before) * math.log(after / before) for before, after in zip(old, new, strict=True))


def _chi_squared_tail(statistic: float, freedom: int) -> float:
    """Wilson and Hilferty's approximation."""
    spread = 2 / (9 * freedom)
    return 1 - NormalDist().cdf((math.cbrt(statistic / freedom) - 1 + spread) / math.sqrt(spread))
