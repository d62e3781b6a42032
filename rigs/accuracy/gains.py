"""What the prior correction and feedback gain on the labelled tasks, and whether a promise holds on real scores."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from statistics import mean

from edge_agent.accuracy.assessment import Answer, assess
from edge_agent.accuracy.calibration import calibration_error
from edge_agent.accuracy.fit import better_map
from edge_agent.accuracy.promise import find_promise
from edge_agent.accuracy.score_map import ScoreMap
from rigs.accuracy.scores import Scored, TaskScores, judged, share_right

CORRECTIONS = 50
# Streams of corrections, each drawn anew.
_STREAMS = 20
_RESAMPLINGS = 1000
_AUDITS = 150


def prior(tasks: Sequence[TaskScores]) -> bool:
    """Prints what the correction alone gains; whether the targets are met."""
    print(f"\n{'prior correction':18} {'labels':>6} {'rows':>5} {'as is':>7} {'corrected':>9} {'gain':>7}")
    gains = []
    for task in tasks:
        before, after = (share_right(task.test, by) for by in (ScoreMap.identity(task.labels), task.base))
        gains.append(100 * (after - before))
        print(f"{task.name:18} {len(task.labels):6} {len(task.test):5} {before:7.1%} {after:9.1%} {gains[-1]:+7.1f}")
    print(f"mean gain {mean(gains):+.1f} points (target +15), least {min(gains):+.1f} (target -2)")
    return mean(gains) >= 15 and min(gains) >= -2


def feedback(tasks: Sequence[TaskScores], seed: int) -> bool:
    """Prints what 50 corrections on a running board gain, as a mean of several streams; whether the targets are met.

    Each task starts with its prior corrected, and is assessed after each correction, as the agent does.
    """
    shares = f"{'as is':>7} {'before':>7} {'after':>7} {'gain':>6} {'least':>6}"
    print(f"\n{'feedback':18} {shares} {'ECE':>6} {'after':>6} {'fit ms':>7}")
    draw, good, good_beside_as_is, worst = random.Random(seed), 0, 0, 0.0
    for task in tasks:
        as_is = ScoreMap.identity(task.labels)
        before, error = share_right(task.test, task.base), calibration_error(judged(task.test, task.base))
        maps, times = [], []
        for _ in range(_STREAMS):
            used, slowest_s = _learn(task, draw.sample(task.train, CORRECTIONS))
            maps.append(used)
            times.append(slowest_s)
        after = [share_right(task.test, used) for used in maps]
        error_after = mean(calibration_error(judged(task.test, used)) for used in maps)
        gain, least = 100 * (mean(after) - before), 100 * (min(after) - before)
        good += gain >= 10 or error_after <= error / 2
        gain_beside_as_is = mean(after) - share_right(task.test, as_is)
        good_beside_as_is += gain_beside_as_is >= 0.1 or error_after <= calibration_error(judged(task.test, as_is)) / 2
        worst = min(worst, gain)
        shown = f"{before:7.1%} {mean(after):7.1%} {gain:+6.1f} {least:+6.1f} {error:6.3f} {error_after:6.3f}"
        print(f"{task.name:18} {share_right(task.test, as_is):7.1%} {shown} {1000 * max(times):7.0f}")
    wanted = -(-3 * len(tasks) // 5)
    print(f"{good} of {len(tasks)} gain 10 points or half the error (target {wanted}), worst {worst:+.1f} (target -1)")
    print(f"with what the prior correction gains: {good_beside_as_is} of {len(tasks)}")
    return good >= wanted and worst >= -1


def _learn(task: TaskScores, rows: Sequence[Scored]) -> tuple[ScoreMap, float]:
    """The map after these corrections, and the time of the slowest assessment."""
    used, compared_rows, slowest_s = task.base, 0, 0.0
    answers: list[Answer] = []
    for scores, label in rows:
        answers.append(Answer(scores=scores, output=used.best(scores)[0], label=label, is_marked=True))
        began = time.perf_counter()
        found = assess(
            answers,
            better_map=better_map,
            current=used,
            base=task.base,
            compared_rows=compared_rows,
            min_accuracy=None,
            confidence=0.95,
        )
        slowest_s = max(slowest_s, time.perf_counter() - began)
        used, compared_rows = found.map, found.compared_rows
    return used, slowest_s


def promises(tasks: Sequence[TaskScores], seed: int) -> bool:
    """Prints how often a promise is broken in resamplings of real scores; whether it is in at most 5 %.

    The accuracy of all rows stands for the true one. The promise is a level that the task's best third reaches.
    """
    print(f"\n{'promise':18} {'of':>6} {'made':>7} {'coverage':>9} {'broken':>7}")
    draw, worst = random.Random(seed), 0.0
    for task in tasks:
        rows = judged([*task.train, *task.test], task.base)
        best = sorted(rows, reverse=True)[: len(rows) // 3]
        wanted = round(min(0.95, sum(is_right for _, is_right in best) / len(best) - 0.05), 2)
        if wanted < 0.5:
            print(f"{task.name:18} {'nothing that is worth it':>32}")
            continue
        made = broken = 0
        coverage = 0.0
        for _ in range(_RESAMPLINGS):
            audits = draw.choices(rows, k=_AUDITS)
            others = [score for score, _ in draw.choices(rows, k=200)]
            if (found := find_promise(audits, others, wanted, 0.95)) is not None:
                given = [is_right for score, is_right in rows if score >= found.threshold]
                made += 1
                coverage += found.coverage
                broken += bool(given) and sum(given) / len(given) < wanted
        worst = max(worst, broken / _RESAMPLINGS)
        share = f"{coverage / made:9.1%}" if made else f"{'-':>9}"
        print(f"{task.name:18} {wanted:6.2f} {made / _RESAMPLINGS:7.1%} {share} {broken / _RESAMPLINGS:7.1%}")
    print(f"broken in {worst:.1%} at most (target 5 %)")
    return worst <= 0.05
