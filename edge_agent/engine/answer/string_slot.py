"""PURE: the content of a JSON string, between its quotes: escapes, UTF-8 cut by tokens, length bounds, a pattern."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from edge_agent.engine.answer.code_points import EVERYTHING, Ranges
from edge_agent.engine.answer.json_characters import BACKSLASH, possible_characters, read_character
from edge_agent.engine.answer.pattern_automaton import PatternAutomaton, StateSet

_QUOTE = 0x22
# Printable ASCII that stands for itself.
_PLAIN = re.compile(rb"[ !#-\[\]-~]*")


@dataclass(frozen=True, slots=True)
class StringRules:
    """Lengths in code points of the decoded value; max_length None = unbounded."""

    min_length: int = 0
    max_length: int | None = None
    pattern: PatternAutomaton | None = None

    def least_more(self, length: int, states: StateSet, *, at_least: int = 0) -> int | None:
        """Characters, so many or more, that a string of this length lacks at least; None = it can never be whole."""
        least: int | None = max(self.min_length - length, at_least)
        if self.pattern is not None:
            least = self.pattern.least_length(states, max(self.min_length - length, at_least))
        return least if least is not None and self._has_room(length + least) else None

    def least_more_within(self, length: int, states: StateSet, ranges: Ranges) -> int | None:
        """The same if one of these characters comes next; it is counted."""
        least: int | None = max(self.min_length - length, 1)
        if self.pattern is not None:
            least = self.pattern.least_length_within(states, ranges, self.min_length - length)
        return least if least is not None and self._has_room(length + least) else None

    def _has_room(self, length: int) -> bool:
        return self.max_length is None or length <= self.max_length


@dataclass(frozen=True, slots=True)
class StringSlot:
    """A Slot; `begun` are the bytes of a character or an escape that is not whole yet."""

    rules: StringRules
    length: int
    states: StateSet
    begun: bytes = b""

    @classmethod
    def of(cls, rules: StringRules) -> Self:
        return cls(rules, 0, frozenset() if rules.pattern is None else rules.pattern.start)

    @property
    def can_end(self) -> bool:
        return not self.begun and self.rules.least_more(self.length, self.states) == 0

    @property
    def must_end(self) -> bool:
        return not self.begun and self.rules.least_more(self.length, self.states, at_least=1) is None

    @property
    def least_characters(self) -> int:
        if self.begun:
            return self.rules.least_more_within(self.length, self.states, EVERYTHING) or 1
        return self.rules.least_more(self.length, self.states) or 0

    def feed(self, data: bytes) -> tuple[Self, int] | None:
        rules, length, states = self.rules, self.length, self.states
        buffer = self.begun + data
        at = 0
        while at < len(buffer):
            if rules.pattern is None and (end := _end_of_plain(buffer, at)) > at:
                length, at = length + end - at, end
                continue
            if buffer[at] == _QUOTE:
                return self._end(type(self)(rules, length, states), at - len(self.begun))
            read = read_character(buffer, at)
            if read is None:
                begun = buffer[at:]
                ranges = possible_characters(begun)
                is_possible = ranges and rules.least_more_within(length, states, ranges) is not None
                return (type(self)(rules, length, states, begun), len(data)) if is_possible else None
            point, at = read
            if rules.pattern is not None:
                states = rules.pattern.step(states, point)
            length += 1
        if rules.least_more(length, states) is None:
            return None
        return type(self)(rules, length, states), len(data)

    def _end(self, ended: Self, kept: int) -> tuple[Self, int] | None:
        # Half of a character cannot be written together with the text that follows.
        is_half = bool(self.begun) and self.begun[0] != BACKSLASH
        return (ended, kept) if ended.can_end and not is_half else None


def _end_of_plain(data: bytes, at: int) -> int:
    found = _PLAIN.match(data, at)
    return at if found is None else found.end()
