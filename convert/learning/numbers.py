"""Answers that are numbers: what calibrates their intervals, and how near they are to the true numbers.

The intervals are those of conformal prediction. Each held-out true number lies at some level (quantile) of the
distribution that a model gave for it. A new one lies below any of these levels as often as they did, however good the
model is (V. Chernozhukov, K. Wüthrich and Y. Zhu, "Distributional conformal prediction", 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from ..agent import EstimateTask, NumberBins, level_of, mean_interval, ranges_of, share_interval
from .quality import AnsweredRow
from .report import NumberQuality, TaskQuality
from .runs import effective_rows, sums_by_group
from .training_rows import Row

# With steps of 2.5 %, an interval at 95 % ends at a level of its own on either side.
_STEPS = 40
# NumberBins requires levels to rise.
_MIN_STEP = 1e-6


def levels_of(answers: Sequence[AnsweredRow]) -> tuple[float, ...]:
    """The levels of NumberBins, from answers of uncalibrated models."""
    observed = sorted(
        level_of(ranges_of(answered.scores), answered.row.answer)
        for answered in answers
        if answered.scores and not answered.is_odd
    )
    levels = [0.0]
    for step in range(1, _STEPS):
        # Rounded away from the middle, so that an interval holds at least its share of new answers.
        rank = (len(observed) + 1) * step / _STEPS
        rank = math.floor(rank) if step < _STEPS / 2 else math.ceil(rank)
        level = 0.0 if rank == 0 else 1.0 if rank > len(observed) else observed[rank - 1]
        highest = 1 - (_STEPS - step) * _MIN_STEP
        levels.append(min(max(level, levels[-1] + _MIN_STEP), highest))
    return (*levels, 1.0)


def with_levels(answers: Sequence[AnsweredRow]) -> list[AnsweredRow]:
    """The answers, each half of the groups (or else of the rows) calibrated by the other half (cross-fitting)."""
    groups = [answered.row.group or answered.row.request.where for answered in answers]
    first_half = set(list(dict.fromkeys(groups))[::2])
    halves = list[AnsweredRow](), list[AnsweredRow]()
    for answered, group in zip(answers, groups, strict=True):
        halves[group in first_half].append(answered)
    return [
        _calibrated(answered, levels)
        for half, levels in zip(halves, (levels_of(halves[1]), levels_of(halves[0])), strict=True)
        for answered in half
    ]


def _calibrated(answered: AnsweredRow, levels: tuple[float, ...]) -> AnsweredRow:
    if not answered.scores:
        return answered
    ranges, config = ranges_of(answered.scores), _config_of(answered.row)
    edges = (ranges[0][0], *(end for _, end, _ in ranges))
    scores = NumberBins(edges=edges, levels=levels).corrected([chance for *_, chance in ranges])
    return replace(answered, scores=scores, output=config.median_of(scores))


def number_quality(rows: Sequence[Row], answers: Sequence[AnsweredRow]) -> NumberQuality:
    """The quality of a task from all of its rows and the calibrated answers to those that were held out."""
    config, constant = _config_of(answers[0].row), float(median(row.answer for row in rows))
    given = [answered for answered in answers if answered.output is not None and answered.scores]
    intervals = [config.interval_of(answered.scores or {}) for answered in given]
    holds = [low <= answered.row.answer <= high for answered, (low, high) in zip(given, intervals, strict=True)]
    errors = [abs(answered.output - answered.row.answer) for answered in given]
    given_rows = [answered.row for answered in given]
    total, share = effective_rows(given_rows, holds), sum(holds) / len(given)
    return NumberQuality(
        unit=config.unit,
        mean_error=sum(errors) / len(errors),
        error_interval=mean_interval(sums_by_group(given_rows, errors)),
        tolerance=config.tolerance,
        constant=constant,
        constant_error=sum(abs(constant - answered.row.answer) for answered in answers) / len(answers),
        confidence=config.confidence,
        holds=share,
        holds_interval=share_interval(share * total, total),
        width=median(high - low for low, high in intervals),
    )


def with_number(quality: TaskQuality, number: NumberQuality) -> TaskQuality:
    """The quality of a task whose answers are numbers."""
    return replace(quality, number=number, is_useless=number.mean_error >= number.constant_error)


def _config_of(row: Row) -> EstimateTask:
    config = row.task.config
    assert isinstance(config, EstimateTask)
    return config
