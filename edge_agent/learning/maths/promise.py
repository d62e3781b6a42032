"""Promises how often answers are right, from a random sample of audited ones.

Learn then Test, arXiv 2110.01052: each threshold is a hypothesis that is tested by an exact binomial test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from edge_agent.learning.maths.calibration import JudgedAnswer
from edge_agent.learning.maths.shares import chance_of_at_least

# How many thresholds are tried. Each lets another twentieth of the answers through.
_THRESHOLDS = 20
# Fewer unlabelled confidences than this do not give quantiles worth the name, so the fixed thresholds are tried.
_MIN_UNLABELLED = 40
_FIXED = (0.999, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.0)


@dataclass(frozen=True, slots=True)
class Promise:
    """Answers of at least this confidence are right at least as often as was asked for."""

    threshold: float  # The confidence of the best label.
    coverage: float  # The share of all answers that reach it.

    @classmethod
    def at(cls, threshold: float, audits: Sequence[JudgedAnswer], unlabelled: Sequence[float]) -> Self:
        scores = [*unlabelled, *(audit.score for audit in audits)]
        return cls(threshold, sum(score >= threshold for score in scores) / len(scores))


def find_promise(
    audits: Sequence[JudgedAnswer], unlabelled: Sequence[float], min_accuracy: float, confidence: float
) -> Promise | None:
    """The lowest threshold that the audits prove; None if they prove none.

    `audits` are of answers drawn at random. `unlabelled` are confidences of other answers, whose quantiles are the
    thresholds to try, because the guarantee needs thresholds that the audits do not choose. Where there are few, fixed
    ones are tried. An answer that is never given has a negative confidence in both.

    The chance that answers above the threshold are right less often than `min_accuracy` is at most 1 - `confidence`,
    whatever the confidences are worth. Thresholds are tested from the highest one that has enough audits to prove
    anything. One that passes hands its level of significance on to the next, one that fails loses it. Large samples
    start at several places, which share the level (the fallback procedure, Wiens 2003). Otherwise the few most
    confident answers alone could end the search. Raises ValueError for a target outside of 0 to 1.
    """
    if not (0 < min_accuracy < 1 and 0 < confidence < 1):
        raise ValueError("accuracy and confidence of a promise lie between 0 and 1")
    starts = max(1, int(math.log2(max(1.0, len(audits) / _audits_to_prove(min_accuracy, 1 - confidence)))))
    share = (1 - confidence) / starts
    min_audits = _audits_to_prove(min_accuracy, share)
    # It depends on how many audits reach a threshold, not on how many of those are right, so the tests stay valid.
    tried = [(at, [audit.is_right for audit in audits if audit.score >= at]) for at in _thresholds(unlabelled)]
    tried = [(at, outcomes) for at, outcomes in tried if len(outcomes) >= min_audits]
    starting = {len(tried) * number // starts for number in range(starts)}
    proven, level = None, 0.0
    for place, (at, outcomes) in enumerate(tried):
        level += share if place in starting else 0.0
        if chance_of_at_least(sum(outcomes), len(outcomes), min_accuracy) <= level:
            proven = at
        else:
            level = 0.0
    return None if proven is None else Promise.at(proven, audits, unlabelled)


def _audits_to_prove(accuracy: float, level: float) -> float:
    """How many audits prove an accuracy if all of them are right; not rounded."""
    return math.log(level) / math.log(accuracy)


def _thresholds(unlabelled: Sequence[float]) -> Sequence[float]:
    """Descending; the last one lets all answers through."""
    if len(unlabelled) < _MIN_UNLABELLED:
        return _FIXED
    falling = sorted(unlabelled, reverse=True)
    quantiles = {max(0.0, falling[len(falling) * number // _THRESHOLDS - 1]) for number in range(1, _THRESHOLDS)}
    return sorted(quantiles | {0.0}, reverse=True)
