"""Numbers on the page and the terminal, and intervals as published."""

import dataclasses
import itertools
import math

import pytest

from convert.report.numbers import (
    difference_interval,
    percent,
    perplexity_verdict,
    points_gained,
    ratio,
    right_answers,
    significant,
)
from convert.report.quality import Perplexity, TaskAccuracy


def test_numbers_have_three_significant_digits() -> None:
    values = (None, 0, 0.0134497, 0.09996, 0.0000999, 4.0, 350, 1234.5)
    assert [significant(value) for value in values] == [
        *("–", "0", "0.0134", "0.100", "9.99e-05", "4.00", "350", "1,234")
    ]
    assert significant(0.000353, 1) == "0.0004"
    assert [percent(share) for share in (1, 0.99976, 0, 0.125, None)] == ["100 %", "99.98 %", "0 %", "12.5 %", "–"]
    assert [ratio(value) for value in (1.01171, 0.05)] == ["1.0117", "0.0500"]


def test_a_ratio_below_1_is_never_called_a_gain() -> None:
    def verdict(low: float, value: float, high: float) -> str:
        return perplexity_verdict(Perplexity(ratio=value, low=low, high=high, own=value, reference=1.0))

    assert verdict(0.99, 0.995, 1.005) == "95 % interval 0.9900 to 1.0050, which includes 1: no measurable difference"
    assert verdict(1.001, 1.002, 1.003) == "95 % interval 1.0010 to 1.0030, above 1: a loss"
    assert "does not make it the better model" in verdict(0.98, 0.985, 0.99)


def test_right_answers_have_their_intervals() -> None:
    task = TaskAccuracy(name="t", kind="classify", examples=20, accuracy=0.9, reference_accuracy=1.0, gained=0, lost=2)
    assert right_answers(task) == "90 % (68.3 to 98.8)"
    assert points_gained(task) == "-10.0 (-24.0 to +5.9): no measurable difference"
    many = dataclasses.replace(task, accuracy=0.5, lost=10)
    assert points_gained(many).endswith(": fewer are right")
    assert points_gained(dataclasses.replace(many, gained=10, lost=0)).endswith(": more are right")


@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.05), (0.3, 0.05), (0.0, 0.4)])
def test_the_interval_of_a_difference_holds_the_truth(gained: float, lost: float) -> None:
    """Sums over all possible outcomes, each with its probability."""
    held, examples = 0.0, 20
    for found, missed in itertools.product(range(examples + 1), repeat=2):
        if (same := examples - found - missed) < 0:
            continue
        ways = math.comb(examples, found) * math.comb(examples - found, missed)
        probability = ways * gained**found * lost**missed * (1 - gained - lost) ** same
        low, high = difference_interval(found, missed, examples)
        held += probability * (low <= gained - lost <= high)
    assert held > 0.93
