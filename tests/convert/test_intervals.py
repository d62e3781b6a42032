"""95 % intervals hold the truth in about 95 % of all cases, for few examples too."""

from __future__ import annotations

import itertools
import math

import pytest

from convert.report.intervals import difference_interval, share_interval


@pytest.mark.parametrize(
    ("right", "examples", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_shares_have_the_published_intervals(right: int, examples: int, low: float, high: float) -> None:
    """R. G. Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3."""
    assert share_interval(right, examples) == pytest.approx((low, high), abs=5e-5)
    mirrored = share_interval(examples - right, examples)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.05), (0.1, 0.1), (0.3, 0.05), (0.0, 0.4)])
@pytest.mark.parametrize("examples", [10, 30, 80])
def test_the_interval_of_a_difference_holds_the_truth(gained: float, lost: float, examples: int) -> None:
    """By all outcomes there are, each with its probability."""
    held = 0.0
    for found, missed in itertools.product(range(examples + 1), repeat=2):
        same = examples - found - missed
        if same < 0:
            continue
        ways = math.comb(examples, found) * math.comb(examples - found, missed)
        probability = ways * gained**found * lost**missed * (1 - gained - lost) ** same
        low, high = difference_interval(found, missed, examples)
        assert -1 <= low <= (found - missed) / examples <= high <= 1
        held += probability * (low <= gained - lost <= high)
    assert held > 0.93


def test_the_interval_of_a_difference_is_no_wider_than_needed() -> None:
    assert difference_interval(0, 0, 400) == pytest.approx((-0.0049, 0.0049), abs=1e-4)
    low, high = difference_interval(30, 10, 400)
    assert 0 < low < 0.05 < high < 0.09
