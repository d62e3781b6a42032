"""Slots fed byte by byte: what they take is valid JSON within its rules, and they never lead to a dead end."""

from __future__ import annotations

import json
import random
import re
from fractions import Fraction
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge_agent.engine.answer.number_slot import NumberRules, NumberSlot
from edge_agent.engine.answer.pattern_automaton import PatternAutomaton
from edge_agent.engine.answer.slots import Slot
from edge_agent.engine.answer.string_slot import StringRules, StringSlot
from tests.engine.answer.test_pattern_automaton import PATTERNS

AnySlot = TypeVar("AnySlot", bound=Slot)


def _feed(slot: AnySlot, *pieces: bytes) -> AnySlot | None:
    """After these pieces, all of which must be content."""
    for piece in pieces:
        fed = slot.feed(piece)
        if fed is None:
            return None
        slot, kept = fed
        assert kept == len(piece)
    return slot


def _string(*pieces: bytes, low: int = 0, high: int | None = None, pattern: str | None = None) -> StringSlot | None:
    automaton = None if pattern is None else PatternAutomaton(pattern, min_length=low)
    return _feed(StringSlot.of(StringRules(low, high, automaton)), *pieces)


def _number(text: str, rules: NumberRules) -> NumberSlot | None:
    return _feed(NumberSlot(rules), text.encode())


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=8), is_ascii=st.booleans(), chance=st.randoms())
def test_any_string_is_taken_however_it_is_cut(text: str, *, is_ascii: bool, chance: random.Random) -> None:
    content = json.dumps(text, ensure_ascii=is_ascii)[1:-1].encode()
    cuts = sorted({0, len(content), *(chance.randrange(len(content) + 1) for _ in range(4))})

    slot = _string(*(content[a:b] for a, b in pairwise(cuts)), high=len(text))

    assert slot is not None
    assert slot.length == len(text)
    assert slot.can_end
    assert slot.must_end


@settings(deadline=None)
@given(PATTERNS, st.integers(0, 4), st.integers(0, 6), st.randoms())
def test_whatever_is_written_into_a_string_can_be_ended_within_its_rules(
    pattern: str, low: int, more: int, chance: random.Random
) -> None:
    rules = StringRules(low, low + more, PatternAutomaton(pattern, min_length=low))
    slot = StringSlot.of(rules)
    assume(rules.least_more(0, slot.states) is not None)
    written = b""
    while not slot.must_end:
        bytes_ = list(range(256))
        chance.shuffle(bytes_)
        piece, fed = next((bytes([byte]), fed) for byte in bytes_ if (fed := slot.feed(bytes([byte]))))
        if fed[1] == 0:
            break
        slot, written = fed[0], written + piece

    value = json.loads(b'"' + written + b'"')
    assert slot.can_end
    assert low <= len(value) <= low + more
    assert re.search(pattern, value)


def test_a_quote_in_a_token_ends_the_string_before_what_follows_it() -> None:
    slot = _string(b"stop")
    assert slot is not None

    for data, kept in ((b'."', 1), (b'",', 0), (b'"}', 0), (b' now","x', 4)):
        fed = slot.feed(data)
        assert fed is not None
        assert fed[1] == kept


@pytest.mark.parametrize(
    "data",
    [b"\n", b"\\x", b"\\u12g", b"\\ud83dx", b"\\ude00", b"\\ud83d\\u0041", b"\xff", b"\xc3\x28", b"\xed\xa0", b"\xc0"],
)
def test_what_is_no_json_string_is_refused(data: bytes) -> None:
    assert _string(data) is None


def test_half_of_a_character_cannot_be_ended() -> None:
    for begun in (b"\xf0\x9f", b"\\", b"\\u00", b"\\ud83d", b"\\ud83d\\ude"):
        slot = _string(begun, low=1)
        assert slot is not None
        assert not slot.can_end
        assert slot.feed(b'"') is None or begun == b"\\"


def test_half_of_a_character_that_could_only_break_the_pattern_is_refused() -> None:
    assert _string("ä".encode()[:1], pattern="^ä$") is not None
    assert _string("€".encode()[:1], pattern="^ä$") is None
    assert _string(b"\\u00", pattern="^ä$") is not None
    assert _string(b"\\u20", pattern="^ä$") is None
    assert _string(b"\\ud8", pattern="^\U0001f600$") is not None
    assert _string(b"\\ud83d\\ud", pattern="^\U0001f600$") is not None
    assert _string(b"\\ud8", pattern="^ä$") is None


def test_a_pattern_and_lengths_are_looked_at_together() -> None:
    assert _string(b"a", low=3, pattern="^(a|bcd)$") is None
    assert _string(b"b", low=3, pattern="^(a|bcd)$") is not None
    assert _string(b"xxxx", high=6, pattern="abc$") is None
    assert _string(b"xxx", high=6, pattern="abc$") is not None


_BOUNDS = st.none() | st.integers(-2000, 2000) | st.decimals(-20, 20, places=3).map(float)


def _rules(low: float | None, high: float | None, *, is_integer: bool, **more: object) -> NumberRules:
    bounds = [None if bound is None else Fraction(str(bound)) for bound in (low, high)]
    return NumberRules(is_integer, *bounds, **more)  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    low=_BOUNDS,
    high=_BOUNDS,
    is_integer=st.booleans(),
    is_open=st.booleans(),
    step=st.sampled_from([1, 1, 5, 7]),
    chance=st.randoms(),
)
def test_whatever_digits_are_written_lead_to_a_number_within_the_bounds(
    *, low: float | None, high: float | None, is_integer: bool, is_open: bool, step: int, chance: random.Random
) -> None:
    step = step if is_integer else 1
    rules = _rules(low, high, is_integer=is_integer, is_low_open=is_open, is_high_open=is_open, multiple_of=step)
    slot = NumberSlot(rules)
    assume(any(rules.can_become(char) for char in "-0123456789"))
    while not slot.must_end:
        chars = list("-.0123456789,")
        chance.shuffle(chars)
        fed = next(fed for char in chars if (fed := slot.feed(char.encode())))
        if fed[1] == 0:
            break
        slot = fed[0]

    value = json.loads(slot.text)
    assert isinstance(value, int) or not is_integer
    assert low is None or (value > low if is_open else value >= low)
    assert high is None or (value < high if is_open else value <= high)
    assert not is_integer or value % step == 0


@settings(deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(0, 4), st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_every_number_within_the_bounds_can_be_written(number: int, places: int, one: int, other: int) -> None:
    value, low, high = number / 10**places, min(one, other), max(one, other)
    text = f"{value:.{places}f}"
    slot = _number(text, _rules(low, high, is_integer=False))

    is_negative_zero = text.startswith("-") and value == 0
    assert bool(slot and slot.can_end) == (low <= value <= high and not is_negative_zero)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("01", _rules(None, None, is_integer=True)),
        ("1.", _rules(None, None, is_integer=True)),
        ("-0", _rules(None, None, is_integer=True)),
        ("1e5", _rules(None, None, is_integer=False)),
        (" 1", _rules(None, None, is_integer=False)),
        (",", _rules(None, None, is_integer=False)),
        ("-", _rules(0, None, is_integer=False)),
        ("7", _rules(10, 60, is_integer=True)),
        ("61", _rules(10, 60, is_integer=True)),
        ("1.0", _rules(None, 1, is_integer=False, is_high_open=True)),
        ("12345678901234567", _rules(None, None, is_integer=True)),
        ("0.1234567890123456", _rules(None, None, is_integer=False)),
    ],
)
def test_digits_that_lead_nowhere_are_refused(text: str, rules: NumberRules) -> None:
    assert _number(text, rules) is None


def test_a_number_ends_before_a_mark_if_it_is_whole() -> None:
    slot = NumberSlot(_rules(10, 600, is_integer=True))

    assert slot.feed(b"42,") == (NumberSlot(slot.rules, "42"), 2)
    assert slot.feed(b"4,") is None
    assert slot.feed(b"42}\n") == (NumberSlot(slot.rules, "42"), 2)


@pytest.mark.parametrize(
    ("low", "high", "least"), [(None, None, 1), (5, 60, 1), (1000, None, 4), (None, -76, 3), (0.2, 0.7, 3), (-3, 3, 1)]
)
def test_a_number_knows_how_long_it_will_be_at_least(low: float | None, high: float | None, least: int) -> None:
    slot = NumberSlot(_rules(low, high, is_integer=False))

    assert slot.least_characters == least


def test_a_number_to_which_nothing_can_be_added_must_end() -> None:
    whole = _number("60", _rules(10, 60, is_integer=True))
    longer = _number("6", _rules(1, 60, is_integer=True))

    assert whole is not None
    assert whole.must_end
    assert longer is not None
    assert not longer.must_end
    assert longer.can_end
