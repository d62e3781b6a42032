"""Answers that are numbers: the levels that make their intervals true, and how near they are to the true numbers.

The intervals are those of conformal prediction. Each held-out answer lies at a level of the distribution that a model
gave for it. A new one lies below the level of a share of these as often as that share says, whatever the model is like
(V. Chernozhukov, K. Wüthrich and Y. Zhu, "Distributional conformal prediction", 2021).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from ..agent import EstimateTask, NumberBins, independent_rows, level_of, mean_interval, ranges_of, share_interval
from .quality import AnsweredRow
from .report import NumberQuality
from .training_rows import Row

# Each step is this share of the held-out answers, so that an interval at 95 % has a level of its own on either side.
_STEPS = 40
_LEAST_STEP = 1e-6


def levels_of(answers: Sequence[AnsweredRow]) -> tuple[float, ...]:
    """The levels of NumberBins, from answers of models without any."""
    ranks = sorted(
        level_of(ranges_of(answered.scores), answered.row.answer)
        for answered in answers
        if answered.scores and not answered.is_odd
    )
    levels = [0.0]
    for step in range(1, _STEPS):
        # From the middle outwards, so that an interval holds at least its share of new answers.
        place = (len(ranks) + 1) * step / _STEPS
        place = math.floor(place) if step < _STEPS / 2 else math.ceil(place)
        level = 0.0 if place == 0 else 1.0 if place > len(ranks) else ranks[place - 1]
        highest = 1 - (_STEPS - step) * _LEAST_STEP
        levels.append(min(max(level, levels[-1] + _LEAST_STEP), highest))
    return (*levels, 1.0)


def with_levels(answers: Sequence[AnsweredRow]) -> list[AnsweredRow]:
    """The answers as with levels from those of other rows: each half of the groups, or of the rows, has the other's."""
    groups = list(dict.fromkeys(answered.row.group or answered.row.request.where for answered in answers))
    first = set(groups[::2])
    halves = list[AnsweredRow](), list[AnsweredRow]()
    for answered in answers:
        halves[(answered.row.group or answered.row.request.where) in first].append(answered)
    return [
        _corrected(answered, levels)
        for half, levels in zip(halves, (levels_of(halves[1]), levels_of(halves[0])), strict=True)
        for answered in half
    ]


def _corrected(answered: AnsweredRow, levels: tuple[float, ...]) -> AnsweredRow:
    if not answered.scores:
        return answered
    ranges, config = ranges_of(answered.scores), _config_of(answered.row)
    edges = (ranges[0][0], *(end for _, end, _ in ranges))
    scores = NumberBins(edges=edges, levels=levels).corrected([chance for *_, chance in ranges])
    return replace(answered, scores=scores, output=config.median_of(scores))


def number_quality(rows: Sequence[Row], answers: Sequence[AnsweredRow]) -> NumberQuality:
    """rows: all of the task's. answers: to those that were held out, with levels."""
    config, constant = _config_of(answers[0].row), float(median(row.answer for row in rows))
    given = [answered for answered in answers if answered.output is not None and answered.scores]
    intervals = [config.interval_of(answered.scores or {}) for answered in given]
    holds = [low <= answered.row.answer <= high for answered, (low, high) in zip(given, intervals, strict=True)]
    errors = [abs(answered.output - answered.row.answer) for answered in given]
    of_groups = _by_group(given, list(map(float, holds)))
    total = independent_rows(of_groups) if len(of_groups) < len(given) else float(len(given))
    share = sum(holds) / len(given)
    return NumberQuality(
        unit=config.unit,
        mean_error=sum(errors) / len(errors),
        error_interval=mean_interval(_by_group(given, errors)),
        tolerance=config.tolerance,
        constant=constant,
        constant_error=sum(abs(constant - answered.row.answer) for answered in answers) / len(answers),
        confidence=config.confidence,
        holds=share,
        holds_interval=share_interval(share * total, total),
        width=median(high - low for low, high in intervals),
    )


def _by_group(answers: Sequence[AnsweredRow], values: Sequence[float]) -> list[tuple[float, int]]:
    """The sum and the number of values of each group. A row without a group is one of its own."""
    groups = defaultdict[Any, list[float]](list)
    for at, (answered, value) in enumerate(zip(answers, values, strict=True)):
        groups[at if answered.row.group is None else answered.row.group].append(value)
    return [(sum(of_group), len(of_group)) for of_group in groups.values()]


def _config_of(row: Row) -> EstimateTask:
    config = row.task.config
    assert isinstance(config, EstimateTask)
    return config
