"""Intervals of shares and means where values come in groups that are alike."""

import math
import random

import pytest

from edge_agent.learning.maths.groups import effective_sample_size, mean_interval
from edge_agent.learning.maths.shares import interval


def drawn(draw: random.Random, groups: int, spread: float) -> list[tuple[int, int]]:
    """Right answers and all answers of days, each with its own chance of a right one, which is 0.8 on average."""
    made = []
    for _ in range(groups):
        count = draw.randint(20, 60)
        chance = draw.betavariate(0.8 * spread, 0.2 * spread)
        made.append((sum(draw.random() < chance for _ in range(count)), count))
    return made


@pytest.mark.parametrize(("groups", "times"), [(5, 400), (10, 200), (30, 100)])
@pytest.mark.parametrize("spread", [2.0, 20.0])
def test_the_intervals_hold_the_truth_as_often_as_stated(groups: int, times: int, spread: float) -> None:
    draw = random.Random(1)
    held, as_rows, of_means = 0, 0, 0
    for _ in range(times):
        made = drawn(draw, groups, spread)
        right, total = (sum(column) for column in zip(*made, strict=True))
        worth = effective_sample_size(made)
        low, high = interval(right / total * worth, worth)
        held += low <= 0.8 <= high
        low, high = interval(right, total)
        as_rows += low <= 0.8 <= high
        low, high = mean_interval(made)
        of_means += low <= 0.8 <= high
    assert held / times > 0.9
    # This is what makes it necessary.
    assert as_rows / times < (0.5 if spread == 2 else 0.8)
    # Few groups say less about a mean, which may have no bounds, if they are as skewed as these shares are.
    assert of_means / times > 0.8


def test_groups_that_do_not_differ_are_worth_about_all_their_rows() -> None:
    assert effective_sample_size([(8, 10)] * 100) == pytest.approx(1000, rel=0.03)
    assert effective_sample_size([(10, 10)] * 100) == pytest.approx(1000, rel=0.03)
    assert effective_sample_size([(10, 10), (0, 10)]) == 1
    assert effective_sample_size([(8, 10)]) == 1


def test_one_group_says_nothing_about_a_mean() -> None:
    assert mean_interval([(8.0, 10)]) == (-math.inf, math.inf)
    assert mean_interval([(10.0, 10), (10.0, 10)]) == (1, 1)
