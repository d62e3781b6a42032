"""Patterns as automata, compared with what Python's `re` finds."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.engine.answer.pattern_automaton import PatternAutomaton, StateSet
from edge_agent.engine.answer.pattern_reader import UnsupportedPatternError

_ATOMS = st.sampled_from(
    ["a", "b", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", "[^a]", r"[\d_]", r"[^\w-]", "^", "$", "-"]
)
_QUANTIFIERS = st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "{1,3}", "*?", "{0}"])


def _quantified(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("({}){}".format, inner, _QUANTIFIERS) | st.builds("(?:{}){}".format, inner, _QUANTIFIERS)


PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: (
        _quantified(inner)
        | st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map("|".join).map("({})".format)
    ),
    max_leaves=6,
).filter(lambda pattern: not re.search(r"\$.*\^", pattern))
TEXTS = st.text("ab1-_ Z", max_size=6)


def _after(automaton: PatternAutomaton, text: str) -> StateSet:
    states = automaton.start
    for char in text:
        states = automaton.step(states, ord(char))
    return states


def _matches(automaton: PatternAutomaton, text: str) -> bool:
    return automaton.least_length(_after(automaton, text), 0) == 0


@settings(deadline=None)
@given(PATTERNS, TEXTS)
def test_it_matches_where_python_finds(pattern: str, text: str) -> None:
    assert _matches(PatternAutomaton(pattern), text) == bool(re.search(pattern, text))


@settings(deadline=None)
@given(PATTERNS, st.text("ab1", max_size=3), st.integers(0, 3))
def test_the_least_length_is_that_of_the_shortest_text_that_matches(pattern: str, begin: str, least: int) -> None:
    found = [
        length
        for length in range(least, 5)
        if any(re.search(pattern, begin + "".join(rest)) for rest in itertools.product("ab1-_ ", repeat=length))
    ]
    automaton = PatternAutomaton(pattern, min_length=3)

    told = automaton.least_length(_after(automaton, begin), least)

    if told is None or told > 4:
        assert not found
    else:
        assert found[0] == told


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (r"^[A-Z]{2}-\d{4}$", "PU-0042", "PU-042"),
        (r"^(?:\+|0)[1-9]\d{1,3}$", "+49", "+049"),
        (r"^\u00e4\x41\/\.$", "äA/.", "äA/x"),
        (r"^[\]\-a]+$", "]-a", "b"),
        (r"^[^\s]+$", "Grüße!", "zwei Worte"),
        (r"bar|^fo{2}$", "the bar", "fo"),
        (r"^\t\n\r\f\v$", "\t\n\r\f\v", "tnrfv"),
        (r"^.$", "€", "\u2028"),
        (r"^\S$", "\U0001f600", "\ufeff"),
        ("", "anything", None),
    ],
)
def test_patterns_as_they_are_written_in_schemas(pattern: str, matching: str, other: str | None) -> None:
    automaton = PatternAutomaton(pattern)

    assert _matches(automaton, matching)
    assert other is None or not _matches(automaton, other)


@pytest.mark.parametrize("pattern", [r"^\d$", r"^\w$", r"^\s$", r"^\D$", r"^\W$", r"^\S$", r"^[^\d]$", r"^[^\W]$"])
def test_what_it_takes_beyond_ascii_python_takes_too(pattern: str) -> None:
    automaton = PatternAutomaton(pattern)

    for point in [*range(0xD800), *range(0xE000, 0x11000), 0x1D7CE]:
        if _matches(automaton, chr(point)):
            assert re.search(pattern, chr(point)), hex(point)


def test_a_line_end_at_the_end_is_no_end() -> None:
    assert not _matches(PatternAutomaton("^a$"), "a\n")


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"a(?=b)", r"(?i)a", r"(?P<x>a)", r"(a)\1", r"\bword", r"\p{L}", r"\Aa", "a**", "a*+", "a{,2}", "{2}", "x{3"),
        *("(a", "a)", "[a", "[]", "[a-", "^*", r"\cA", r"\u12", r"\ud800", "[b-a]", "a{2,1}", "[[a]", r"[\d-z]", "+"),
        *("\\", "((((a{9}){9}){9}){9})"),
    ],
)
def test_what_is_outside_of_the_subset_is_told(pattern: str) -> None:
    with pytest.raises(UnsupportedPatternError):
        PatternAutomaton(pattern)
