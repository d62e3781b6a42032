"""Numbers on the page and the terminal: few characters, no digit too many, and intervals as published."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.quantize.mix import mix_in_words, mix_name
from convert.report.numbers import (
    difference_interval,
    difference_verdict,
    percent,
    perplexity_verdict,
    points_gained,
    ratio,
    right_answers,
    round_number,
    share_interval,
    significant,
    value_and_error,
)
from convert.report.quality import Perplexity, TaskAccuracy

# The room of a card on a phone.
CARD_CHARACTERS = 13
SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def number(text: str) -> float:
    """The value of a printed number."""
    mantissa, _, power = plain(text).replace(",", "").partition(" × 10")
    return float(f"{mantissa}e{power.translate(SUPERSCRIPT) or 0}")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.0134497, "0.0134"),
        (0.09996, "0.100"),
        (0.0001, "0.000100"),
        (0.0000999, "9.99 × 10⁻⁵"),
        (1234.5, "1,230"),
        (2.5e9, "2.50 × 10⁹"),
    ],
)
def test_a_number_has_three_significant_digits(value: float | None, text: str) -> None:
    assert plain(significant(value)) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0134497, 0.000353, ("0.0134", "0.0004")),
        (0.0134497, 0.000153, ("0.01345", "0.00015")),
        (3.04e-7, 1.2e-8, ("3.04 × 10⁻⁷", "0.12 × 10⁻⁷")),
        (3e-7, None, ("3.00 × 10⁻⁷", None)),
        (0.0134497, 1e-9, ("0.0134", None)),
        (0.0, 0.0, ("0", None)),
    ],
)
def test_an_error_decides_the_digits_of_its_value(value: float, error: float | None, text: tuple[str, str]) -> None:
    shown, beside = value_and_error(value, error)
    assert (plain(shown), beside and plain(beside)) == text


@given(st.floats(0, 1e15), st.none() | st.floats(1e-300, 1e15))
def test_every_divergence_fits_its_card_and_keeps_its_value(value: float, error: float | None) -> None:
    shown, beside = value_and_error(value, error)
    assert len(shown) <= CARD_CHARACTERS
    assert abs(number(shown) - value) <= max(0.006 * value, error or 0)
    if beside is not None:
        assert number(beside) == pytest.approx(error, rel=0.34)


@given(st.floats(1e-300, 1e300))
def test_every_ratio_fits_its_card(value: float) -> None:
    assert len(ratio(value)) <= CARD_CHARACTERS


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100.0 %"), (0.99976, "99.98 %"), (0, "0.0 %"), (3e-6, "0.0003 %"), (None, "–")]
)
def test_only_all_and_nothing_are_100_and_0_percent(share: float | None, text: str) -> None:
    assert plain(percent(share)) == text


def test_ticks_are_short() -> None:
    ticks = [round_number(value) for value in (0, 0.0005, 350, 1e-4, 1e-5, 2e-7)]
    assert ticks == ["0", "0.0005", "350", "0.0001", "10⁻⁵", "2×10⁻⁷"]


def test_a_ratio_below_1_is_never_called_a_gain() -> None:
    def verdict(low: float, value: float, high: float) -> str:
        return perplexity_verdict(Perplexity(ratio=value, low=low, high=high, own=value, reference=1.0))

    assert verdict(0.99, 0.995, 1.005) == "95 % interval 0.9900 to 1.0050, which includes 1: no measurable difference"
    assert verdict(1.001, 1.002, 1.003) == "95 % interval 1.0010 to 1.0030, above 1: a loss"
    assert "does not make it the better model" in verdict(0.98, 0.985, 0.99)


def test_right_answers_have_their_intervals() -> None:
    task = TaskAccuracy(name="t", kind="classify", examples=20, accuracy=0.9, reference_accuracy=1.0, gained=0, lost=2)
    assert plain(right_answers(task)) == "90.0 % (69.9 to 97.2)"
    assert plain(points_gained(task)) == "−10.0 (−24.0 to +5.9)"
    assert difference_verdict(task) == "no measurable difference"
    many = dataclasses.replace(task, accuracy=0.5, lost=10)
    assert difference_verdict(many) == "fewer are right"
    assert difference_verdict(dataclasses.replace(many, gained=10, lost=0)) == "more are right"


@pytest.mark.parametrize(
    ("right", "examples", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_shares_have_the_published_intervals(right: int, examples: int, low: float, high: float) -> None:
    """R. G. Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3."""
    assert share_interval(right, examples) == pytest.approx((low, high), abs=5e-5)
    assert share_interval(examples - right, examples) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.05), (0.3, 0.05), (0.0, 0.4)])
@pytest.mark.parametrize("examples", [10, 80])
def test_the_interval_of_a_difference_holds_the_truth(gained: float, lost: float, examples: int) -> None:
    """Sums over all possible outcomes, each with its probability."""
    held = 0.0
    for found, missed in itertools.product(range(examples + 1), repeat=2):
        if (same := examples - found - missed) < 0:
            continue
        ways = math.comb(examples, found) * math.comb(examples - found, missed)
        probability = ways * gained**found * lost**missed * (1 - gained - lost) ** same
        low, high = difference_interval(found, missed, examples)
        held += probability * (low <= gained - lost <= high)
    assert held > 0.93


def test_a_mix_has_a_name_for_dashboards_and_one_for_readers() -> None:
    mixed = {"Q8_0": 140, "IQ4_NL": 200, "Q6_K": 13}
    assert mix_name(mixed) == "IQ4_NL-MIX"
    assert mix_in_words("IQ4_NL-MIX", mixed) == "IQ4_NL-MIX, mostly IQ4_NL and Q8_0"
    assert mix_in_words("Q4_0", {"Q4_0": 200, "Q8_0": 140}) == "Q4_0, Q4_0 and Q8_0"
    assert mix_name({"Q4_0": 7}) == mix_in_words("Q4_0", {"Q4_0": 7}) == "Q4_0"
    assert mix_name({"Q8_0": 5, "Q4_0": 5}) == "Q4_0-MIX"
