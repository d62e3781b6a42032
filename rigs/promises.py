"""Promises, drift alarms and fitted score maps where the truth is known, by simulation.

No model answers anything here. Every result is printed; those with a target also say `met` or `MISSED`.
"""

import sys
from collections.abc import Callable, Iterator
from math import log

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from edge_agent.core.score_map import ScoreMap
from edge_agent.learning.maths import drift
from edge_agent.learning.maths.assessment import LabelledScores
from edge_agent.learning.maths.calibration import JudgedAnswer
from edge_agent.learning.maths.fit import better_map
from edge_agent.learning.maths.promise import find_promise
from rigs.bench.figures import processor, verdict
from rigs.machine import parser_of

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]

YEAR = 8760  # audits, one an hour
HISTORY = 200  # audits before a drop
SEEN = 700  # audits after it


def main() -> int:
    """Prints all tables; the exit code is 1 if a target is missed."""
    parser = parser_of("rigs.promises", __doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    print(processor())
    with threadpool_limits(1):
        verdicts = [
            *check_promises(np.random.default_rng(seed), resamplings=1000),
            *check_drift(np.random.default_rng(seed), years=60, drops=250),
            *check_maps(np.random.default_rng(seed), runs=100),
        ]
    print(f"{verdicts.count(True)} of {len(verdicts)} targets are met")
    return 0 if all(verdicts) else 1


# For promises, the confidence of the best label, and the chance that it is right.

_Answers = Callable[[np.random.Generator, int], tuple[_Floats, _Floats]]


def calibrated(rng: np.random.Generator, count: int) -> tuple[_Floats, _Floats]:
    confidence = 0.5 + 0.5 * rng.beta(5, 0.6, count)
    return confidence, confidence


def overconfident(rng: np.random.Generator, count: int) -> tuple[_Floats, _Floats]:
    confidence = 0.4 + 0.6 * rng.beta(5, 0.6, count)
    return confidence, 0.3 + 0.69 * confidence**2


def non_monotone(rng: np.random.Generator, count: int) -> tuple[_Floats, _Floats]:
    """The most confident answers are often wrong."""
    confidence = rng.beta(5, 1, count)
    return confidence, np.select([confidence > 0.97, confidence > 0.6], [0.85, 0.985], 0.6)


def tied(rng: np.random.Generator, count: int) -> tuple[_Floats, _Floats]:
    """Confidences of one decimal, such as a small model's that repeats its prompts."""
    confidence = np.round(rng.beta(5, 0.6, count), 1)
    return confidence, confidence**0.7


_ANSWERS: tuple[_Answers, ...] = (calibrated, overconfident, non_monotone, tied)


def check_promises(rng: np.random.Generator, resamplings: int) -> Iterator[bool]:
    """The target is that at most 5 % of the promises, made at 95 %, are broken.

    A broken promise has a lower true accuracy above the threshold.
    """
    print("\nPromises, 500 unlabelled answers; `possible`: the largest coverage that a known truth allows")
    print(f"{'':14} {'audits':>6} {'accuracy':>8} {'broken':>7} {'given':>6} {'coverage':>8} {'possible':>8}")
    for answers in _ANSWERS:
        confidences, chances = answers(rng, 200_000)
        order = np.argsort(-confidences)
        falling = confidences[order]
        accuracy_above = np.cumsum(chances[order]) / np.arange(1, len(order) + 1)
        for audits in (100, 300, 1000):
            for least in (0.9, 0.95):
                broken, coverages = 0, []
                for _ in range(resamplings):
                    scores, chances = answers(rng, audits)
                    sample = list(map(JudgedAnswer, scores.tolist(), (rng.random(audits) < chances).tolist()))
                    promise = find_promise(sample, answers(rng, 500)[0].tolist(), least, 0.95)
                    if promise is None:
                        continue
                    covered = int(np.searchsorted(-falling, -promise.threshold, side="right"))
                    coverages.append(covered / len(falling))
                    broken += bool(accuracy_above[covered - 1] < least)
                possible = max(np.flatnonzero(accuracy_above >= least).tolist(), default=-1) + 1
                is_met = broken <= 0.05 * resamplings
                print(
                    f"{answers.__name__:14} {audits:6} {least:8} "
                    f"{broken / resamplings:7.1%} {len(coverages) / resamplings:6.1%} "
                    f"{sum(coverages) / resamplings:8.1%} {possible / len(falling):8.1%} {verdict(is_met)}",
                )
                yield is_met


# For drift, all that `find_drop` would say, audit by audit, for many runs at once.

# A third of the inputs gets another right label, one of three others.
_SHARE, _OTHERS = 1 / 3, 3


def check_drift(rng: np.random.Generator, years: int, drops: int) -> Iterator[bool]:
    """The targets: one false alarm a year, and a change seen in 60 audits from 90 %, else in 1.5 · ln(8,760) / KL."""
    print(f"\nDrift after {HISTORY} audits, looked at for {SEEN} more; inf: most drops were not seen")
    print(f"{'accuracy':>8} {'false alarms a year':>20} {'then':>10} {'median delay':>12} {'ln(8760)/KL':>11}")
    for level in (0.6, 0.7, 0.8, 0.9, 0.95, 0.99):
        alarms = evidence(rng.random((years, YEAR)) < level) >= log(drift._ALARM)
        is_any = alarms.any(axis=1)
        # The runs end with their first alarm, after which an agent takes a new reference.
        audits = int(np.where(is_any, alarms.argmax(axis=1) + 1, YEAR).sum())
        rate = int(is_any.sum()) / audits * YEAR
        after = level * (1 - _SHARE) + (1 - level) * _SHARE / _OTHERS
        outcomes = np.hstack([rng.random((drops, HISTORY)) < level, rng.random((drops, SEEN)) < after])
        alarms = evidence(outcomes) >= log(drift._ALARM)
        alarms = alarms[~alarms[:, :HISTORY].any(axis=1), HISTORY:]
        delay = float(np.median(np.where(alarms.any(axis=1), alarms.argmax(axis=1) + 1, np.inf)))
        least = log(YEAR) / (after * log(after / level) + (1 - after) * log((1 - after) / (1 - level)))
        verdicts = rate <= 1, delay <= (60 if level >= 0.9 else 1.5 * least)
        words = map(verdict, verdicts)
        print(f"{level:8} {rate:13.2f} {next(words):6} {after:10.2f} {delay:12.0f} {least:11.0f} {next(words)}")
        yield from verdicts


def evidence(outcomes: _Bools) -> _Floats:
    """The logarithm of the statistic of `find_drop` after each audit, [runs, audits] like `outcomes`.

    tests/rigs/test_promises.py compares it with the agent's.
    """
    audits = outcomes.shape[1]
    counts = np.insert(outcomes.cumsum(axis=1), 0, 0, axis=1)
    ends = np.arange(drift.MIN_BEFORE + 1, audits + 1)
    starts = np.maximum(ends - drift.MAX_AUDITS, 0)
    right, total = counts[:, ends] - counts[:, starts], ends - starts
    likelihoods = np.array([right * log(level) + (total - right) * log(1 - level) for level in drift._LEVELS])
    top = likelihoods.max(axis=0)
    weights = likelihoods - top - np.log(np.exp(likelihoods - top).sum(axis=0))
    tested = outcomes[:, drift.MIN_BEFORE :]
    result = np.full(outcomes.shape, -np.inf)
    for level, weight in zip(drift._LEVELS, weights, strict=True):
        steps = np.where(tested, log(drift._REMAINING_SHARE), log((1 - drift._REMAINING_SHARE * level) / (1 - level)))
        after = slice(drift.MIN_BEFORE, None)
        result[:, after] = np.logaddexp(result[:, after], weight + _moving_sums(steps))
    return result


def _moving_sums(steps: _Floats) -> _Floats:
    """The logarithm of Shiryaev and Roberts' statistic over the newest of these log ratios, after each of them.

    A sum over a moving window is one over the end of the block before and one over the beginning of this block.
    """
    window = drift.MAX_AUDITS - drift.MIN_BEFORE
    sums = np.insert(steps.cumsum(axis=1), 0, 0, axis=1)
    result = np.empty_like(steps)
    for start in range(0, steps.shape[1], window):
        here = slice(start, min(start + window, steps.shape[1]))
        result[:, here] = np.logaddexp.accumulate(-sums[:, here], axis=1)
        if start:
            falling = np.logaddexp.accumulate(-sums[:, start - 1 : start - window : -1], axis=1)
            rest = result[:, here][:, : window - 1]
            rest[:] = np.logaddexp(rest, falling[:, ::-1][:, : rest.shape[1]])
    return result + sums[:, 1:]


# For score maps, the truth is a softmax of random logits; the raw scores are those of distorted logits.


# A distortion of logits has a common scale, and spreads of the labels' log scales and of their biases.
_DISTORTIONS = {
    "calibrated": (1.0, 0.0, 0.0),
    "overconfident": (2.5, 0.0, 0.0),
    "biased": (1.5, 0.0, 1.5),
    "biased, scales": (1.0, 0.4, 1.5),
}
_LABELS = tuple("abcde")


def check_maps(rng: np.random.Generator, runs: int) -> Iterator[bool]:
    """The target is that with 50 rows of a random sample at most 1 % of all runs lose more than a point of accuracy."""
    print("\nScore maps, 5 labels, 50 rows of feedback; means over the runs")
    print(f"{'':14} {'taken':>6} {'accuracy':>15} worse by > 1 point")
    losses: list[bool] = []
    for name, distortion in _DISTORTIONS.items():
        results = np.array([_map_run(rng, *distortion) for _ in range(runs)])
        taken, accuracy, mapped_accuracy = results.mean(axis=0)
        is_worse = results[:, 2] < results[:, 1] - 0.01
        print(f"{name:14} {taken:6.0%}   {accuracy:.3f} → {mapped_accuracy:.3f} {is_worse.mean():.1%}")
        losses += is_worse.tolist()
    share = sum(losses) / len(losses)
    print(f"{share:.2%} of {len(losses)} runs lose a point: {verdict(share <= 0.01)}")
    yield share <= 0.01


def _map_run(
    rng: np.random.Generator, scale: float, scale_spread: float, bias_spread: float
) -> tuple[bool, float, float]:
    """Whether a map is taken, and the accuracy before and after it."""
    labels = len(_LABELS)
    scales = scale * np.exp(rng.normal(0, scale_spread, labels))
    biases = rng.normal(0, bias_spread, labels)

    def answers(number: int) -> tuple[_Floats, npt.NDArray[np.intp]]:
        logits = rng.normal(0, 3, (number, labels))
        return _softmax(logits * scales + biases), (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)

    scores, right = answers(50)
    rows: list[LabelledScores] = [
        (dict(zip(_LABELS, row, strict=True)), _LABELS[at])
        for row, at in zip(scores.tolist(), right.tolist(), strict=True)
    ]
    identity = ScoreMap.identity(_LABELS)
    better = better_map(rows, identity, identity)
    scores, right = answers(4000)
    mapped = scores if better is None else _softmax(np.log(scores) * better.scales + better.biases)
    before, after = (float((one.argmax(axis=1) == right).mean()) for one in (scores, mapped))
    return better is not None, before, after


def _softmax(logits: _Floats) -> _Floats:
    # Weights are not below what a score map takes for zero.
    weights = np.maximum(np.exp(logits - logits.max(axis=1, keepdims=True)), 1e-9)
    result: _Floats = weights / weights.sum(axis=1, keepdims=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
