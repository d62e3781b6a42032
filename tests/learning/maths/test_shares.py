import math

import pytest

from edge_agent.learning.maths.shares import chance_of_at_least, interval, lower_bound, upper_bound


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_shares_have_the_published_intervals(right: int, total: int, low: float, high: float) -> None:
    """R. G. Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 5."""
    assert interval(right, total) == pytest.approx((low, high), abs=5e-5)
    assert interval(total - right, total) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("total", "chance"), [(1, 0.3), (7, 0.95), (60, 0.5), (400, 0.99), (400, 0.001)])
def test_chances_are_those_of_the_binomial_distribution(total: int, chance: float) -> None:
    single = [math.comb(total, right) * chance**right * (1 - chance) ** (total - right) for right in range(total + 1)]
    for right in range(total + 1):
        assert chance_of_at_least(right, total, chance) == pytest.approx(math.fsum(single[right:]), abs=1e-12)


def test_one_sided_bounds() -> None:
    assert lower_bound(59, 59, 0.95) == pytest.approx(0.05 ** (1 / 59))
    assert upper_bound(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert (lower_bound(0, 0, 0.95), upper_bound(0, 0, 0.95)) == (0, 1)
    assert (lower_bound(0, 9, 0.95), upper_bound(9, 9, 0.95)) == (0, 1)


def test_a_part_of_a_right_answer_lies_between_whole_ones() -> None:
    assert lower_bound(45, 50, 0.95) < lower_bound(45.5, 50, 0.95) < lower_bound(46, 50, 0.95)
