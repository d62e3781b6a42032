"""PURE: a regular expression read into the states of an automaton that may be in many of them at once.

Taken: literals, `.`, classes, `\\d \\w \\s` and their opposites, `\\t \\n \\r \\f \\v`, `\\xHH`, `\\uHHHH`, escaped
punctuation, groups, alternatives, `* + ? {m} {m,} {m,n}` (lazy ones too), `^` and `$` (a `^` behind a `$` matches
nothing). Not taken: lookaround, references, `\\b`, `\\p`, flags.
Construction: Thompson, "Regular expression search algorithm", CACM 11 (1968).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.engine.answer.code_points import (
    EVERYTHING,
    NOT_LINE_END,
    Ranges,
    complement,
    contains,
    escape_class,
    union,
)
from edge_agent.engine.answer.code_points import intersection as common

# Adds its states behind a state; gives the one it ends in.
_Fragment = Callable[[int], int]

_MAX_STATES = 500
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_QUANTIFIER = re.compile(r"(?:(?P<sign>[*+?])|\{(?P<low>\d{1,4})(?P<comma>,(?P<high>\d{1,4})?)?\})(?P<lazy>\??)")


class UnsupportedPatternError(ValueError):
    """A pattern outside of the subset, or too large."""


@dataclass(slots=True)
class State:
    """empty: where it leads without a character; at_begin and at_end: only at the string's begin and end."""

    empty: list[int] = field(default_factory=list)
    at_begin: list[int] = field(default_factory=list)
    at_end: list[int] = field(default_factory=list)
    edges: list[tuple[Ranges, int]] = field(default_factory=list)


def read_pattern(pattern: str, states: list[State], begin: int) -> int:
    """Adds the pattern's states behind `begin`; gives the one in which it has matched.

    Raises UnsupportedPatternError.
    """
    return _Reader(pattern, states).read()(begin)


class _Reader:
    """Recursive descent over the pattern. What is read becomes a fragment, which can be built more than once."""

    def __init__(self, pattern: str, states: list[State]) -> None:
        self._pattern = pattern
        self._states = states
        self._at = 0

    def read(self) -> _Fragment:
        fragment = self._alternatives()
        if self._at < len(self._pattern):
            raise self._unsupported("a closing bracket that nothing opens")
        return fragment

    def _unsupported(self, what: str) -> UnsupportedPatternError:
        return UnsupportedPatternError(f"{self._pattern!r}: {what} at {self._at}")

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise self._unsupported("an end that comes too early")
        self._at += 1
        return char

    def _alternatives(self) -> _Fragment:
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._sequence())

        def build(begin: int) -> int:
            end = self._new()
            for option in options:
                # From a state of its own, so that a loop in one alternative cannot lead into another.
                self._link(option(self._linked(begin)), end)
            return end

        return build

    def _sequence(self) -> _Fragment:
        parts: list[_Fragment] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())

        def build(begin: int) -> int:
            for part in parts:
                begin = part(begin)
            return begin

        return build

    def _repeated(self) -> _Fragment:
        is_anchor = self._peek() in ("^", "$")
        atom = self._atom()
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            if self._peek() == "{":
                raise self._unsupported("a brace that is no quantifier")
            return atom
        low, high = _times(found)
        if is_anchor or (high is not None and high < low):
            raise self._unsupported("a quantifier that makes no sense")
        self._at = found.end()
        if self._peek() in ("*", "+", "?"):
            raise self._unsupported("two quantifiers")

        def build(begin: int) -> int:
            for _ in range(low):
                begin = atom(begin)
            if high is None:
                loop = self._linked(begin)
                self._link(atom(loop), loop)
                return loop
            end = self._linked(begin)
            for _ in range(high - low):
                begin = atom(begin)
                self._link(begin, end)
            return end

        return build

    def _atom(self) -> _Fragment:
        char = self._take()
        if char == "(":
            return self._group()
        if char in "^$":
            return lambda begin: self._linked(begin, char)
        if char in "*+?{":
            raise self._unsupported("a quantifier of nothing")
        if char == "[":
            ranges = self._class()
        elif char == "\\":
            ranges = self._escape()
        else:
            ranges = NOT_LINE_END if char == "." else ((ord(char), ord(char)),)

        def build(begin: int) -> int:
            end = self._new()
            self._states[begin].edges.append((ranges, end))
            return end

        return build

    def _group(self) -> _Fragment:
        if self._peek() == "?":
            if self._pattern[self._at : self._at + 2] != "?:":
                raise self._unsupported("a group of a special kind")
            self._at += 2
        fragment = self._alternatives()
        if self._take() != ")":
            raise self._unsupported("a group without an end")
        return fragment

    def _new(self) -> int:
        if len(self._states) >= _MAX_STATES:
            raise self._unsupported("too many repetitions")
        self._states.append(State())
        return len(self._states) - 1

    def _linked(self, begin: int, anchor: str = "") -> int:
        """A new state that is reached from this one without a character."""
        end = self._new()
        state = self._states[begin]
        {"^": state.at_begin, "$": state.at_end}.get(anchor, state.empty).append(end)
        return end

    def _link(self, begin: int, end: int) -> None:
        self._states[begin].empty.append(end)

    def _class(self) -> Ranges:
        is_negated = self._peek() == "^"
        self._at += is_negated
        if self._peek() == "]":
            raise self._unsupported("an empty class")
        inside: list[tuple[int, int]] = []
        outside = EVERYTHING
        while (char := self._take()) != "]":
            is_escape = char == "\\"
            if is_escape and self._peek() in tuple("dDwWsS"):
                letter = self._take()
                inside += escape_class(letter) or ()
                outside = common(outside, escape_class(letter.swapcase()) or ())
                if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                    raise self._unsupported("a range that begins with a class")
                continue
            low = high = self._single(char)
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._single(self._take())
                if high < low:
                    raise self._unsupported("a range upside down")
            inside.append((low, high))
        if is_negated:
            return common(outside, complement(union(inside)))
        return common(union(inside), EVERYTHING)

    def _single(self, char: str) -> int:
        if char != "\\":
            # Python warns of these: they may come to mean sets in sets.
            if char == "[" or (char == self._peek() and char in "-&~|"):
                raise self._unsupported(f"{char!r} in a class")
            return ord(char)
        ranges = self._escape()
        if len(ranges) != 1 or ranges[0][0] != ranges[0][1]:
            raise self._unsupported("a range that ends with a class")
        return ranges[0][0]

    def _escape(self) -> Ranges:
        letter = self._take()
        if (ranges := escape_class(letter)) is not None:
            return ranges
        if letter in "xu":
            size = 2 if letter == "x" else 4
            found = re.compile(f"[0-9a-fA-F]{{{size}}}").match(self._pattern, self._at)
            if found is None or not contains(EVERYTHING, int(found[0], 16)):
                raise self._unsupported("an escaped number")
            self._at = found.end()
            return ((int(found[0], 16), int(found[0], 16)),)
        if letter in _CONTROLS:
            return ((ord(_CONTROLS[letter]), ord(_CONTROLS[letter])),)
        if letter.isalnum() or letter == "_" or not letter.isascii():
            raise self._unsupported(f"the escape \\{letter}")
        return ((ord(letter), ord(letter)),)


def _times(quantifier: re.Match[str]) -> tuple[int, int | None]:
    sign = quantifier["sign"]
    if sign:
        return (1, None) if sign == "+" else (0, None if sign == "*" else 1)
    low = int(quantifier["low"])
    if quantifier["comma"] is None:
        return low, low
    return low, None if quantifier["high"] is None else int(quantifier["high"])
