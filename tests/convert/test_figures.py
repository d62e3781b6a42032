"""Figures in words: few characters, no digit too many, and nothing that reads as more than it is."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.report.figures import percent, ratio, signed, significant, value_and_error
from convert.report.quality import Perplexity, Task
from convert.report.svg import tick_text
from convert.report.verdicts import difference_verdict, perplexity_verdict, points_of_right, share_of_right
from convert.weights.mix import mix_name, told_mix

# What a card of the page has room for on a phone.
CARD_CHARACTERS = 13
RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def number(text: str) -> float:
    """What a figure of ours says."""
    mantissa, _, power = plain(text).replace(",", "").partition(" × 10")
    return float(f"{mantissa}e{power.translate(RAISED) or 0}")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"),
        (0, "0"),
        (0.0134497, "0.0134"),
        (0.09996, "0.100"),
        (0.0001, "0.000100"),
        (0.0000999, "9.99 × 10⁻⁵"),
        (3e-7, "3.00 × 10⁻⁷"),
        (1234.5, "1,230"),
        (2.5e9, "2.50 × 10⁹"),
    ],
)
def test_three_digits_count_and_zeros_are_not_for_counting(value: float | None, told: str) -> None:
    assert plain(significant(value)) == told


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (0.0134497, 0.000353, ("0.0134", "0.0004")),
        (0.0134497, 0.000153, ("0.01345", "0.00015")),
        (3.04e-7, 1.2e-8, ("3.04 × 10⁻⁷", "0.12 × 10⁻⁷")),
        (5e-7, 5e-7, ("5 × 10⁻⁷", "5 × 10⁻⁷")),
        (3e-7, None, ("3.00 × 10⁻⁷", None)),
        (0.0134497, 1e-9, ("0.0134", None)),
        (0.0, 0.0, ("0", None)),
    ],
)
def test_an_error_says_how_many_digits_count(value: float, error: float | None, told: tuple[str, str | None]) -> None:
    shown, beside = value_and_error(value, error)
    assert (plain(shown), beside and plain(beside)) == told


@given(st.floats(0, 1e15), st.none() | st.floats(0, 1e15))
def test_every_divergence_fits_its_card_and_says_what_it_is(value: float, error: float | None) -> None:
    shown, beside = value_and_error(value, error)
    assert len(shown) <= CARD_CHARACTERS
    assert abs(number(shown) - value) <= max(0.006 * value, error or 0)
    if beside is not None:
        assert error is not None
        assert number(beside) == pytest.approx(error, rel=0.34)


@given(st.floats(1e-300, 1e300))
def test_every_ratio_fits_its_card(value: float) -> None:
    assert len(ratio(value)) <= CARD_CHARACTERS


@pytest.mark.parametrize(
    ("share", "told"), [(1, "100.0 %"), (0.99976, "99.98 %"), (0, "0.0 %"), (3e-6, "0.0003 %"), (None, "–")]
)
def test_only_all_and_nothing_are_100_and_0_percent(share: float | None, told: str) -> None:
    assert plain(percent(share)) == told


def test_a_difference_of_nothing_has_no_sign() -> None:
    assert [signed(value) for value in (-0.5, 0.5, -0.04, 0.0)] == ["−0.5", "+0.5", "0.0", "0.0"]


def test_ticks_are_short() -> None:
    ticks = [tick_text(value) for value in (0, 0.0005, 350, 1e-4, 1e-5, 2e-7, 5e-12)]
    assert ticks == ["0", "0.0005", "350", "0.0001", "10⁻⁵", "2×10⁻⁷", "5×10⁻¹²"]


def perplexity(low: float | None, value: float, high: float | None) -> Perplexity:
    return Perplexity(ratio=value, low=low, high=high, own=value, reference=1.0)


def test_a_ratio_below_1_is_never_told_as_a_gain() -> None:
    undecided = "95 % interval 0.9900 to 1.0050, which includes 1: no difference that can be told"
    assert perplexity_verdict(perplexity(0.99, 0.995, 1.005)) == undecided
    assert perplexity_verdict(perplexity(0.99, 1.002, 1.005)) == undecided
    assert perplexity_verdict(perplexity(1.001, 1.002, 1.003)) == "95 % interval 1.0010 to 1.0030, above 1: a loss"
    assert "does not make it the better model" in perplexity_verdict(perplexity(0.98, 0.985, 0.99))
    assert perplexity_verdict(perplexity(None, 0.985, None)) == "no interval is known"


def test_answers_are_told_with_what_chance_does() -> None:
    task = Task(name="t", kind="classify", examples=20, accuracy=0.9, reference_accuracy=1.0, gained=0, lost=2)
    assert plain(share_of_right(task)) == "90.0 % (69.9 to 97.2)"
    assert plain(points_of_right(task)) == "−10.0 (−24.0 to +5.9)"
    assert difference_verdict(task) == "no difference that can be told"
    many = dataclasses.replace(task, accuracy=0.5, lost=10)
    assert difference_verdict(many) == "fewer are right"
    assert difference_verdict(dataclasses.replace(many, gained=10, lost=0)) == "more are right"
    unpaired = dataclasses.replace(task, gained=None, lost=None)
    assert (points_of_right(unpaired), difference_verdict(unpaired)) == ("−10.0", "no interval is known")


def test_a_mix_has_a_name_for_dashboards_and_one_for_readers() -> None:
    mixed = {"Q8_0": 140, "IQ4_NL": 200, "Q6_K": 13}
    assert mix_name(mixed) == "IQ4_NL-MIX"
    assert told_mix("IQ4_NL-MIX", mixed) == "IQ4_NL-MIX, mostly IQ4_NL and Q8_0"
    assert told_mix("", mixed) == "mostly IQ4_NL and Q8_0"
    assert told_mix("Q4_0", {"Q4_0": 200, "Q8_0": 140}) == "Q4_0, Q4_0 and Q8_0"
    assert mix_name({"Q4_0": 7}) == told_mix("Q4_0", {"Q4_0": 7}) == "Q4_0"
    assert mix_name({"Q8_0": 5, "Q4_0": 5}) == "Q4_0-MIX", "of equals, not what happens to be first"
