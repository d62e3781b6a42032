"""PURE: an automaton that tells, before each character, with how many more of them a string can match a pattern.

Patterns of a JSON Schema match anywhere in a string unless they are anchored (ECMA-262).
"""

from __future__ import annotations

from edge_agent.engine.answer.code_points import EVERYTHING, Ranges, contains
from edge_agent.engine.answer.code_points import intersection as common
from edge_agent.engine.answer.pattern_reader import State, read_pattern

StateSet = frozenset[int]

# Steps that are remembered.
_MAX_KEPT_STEPS = 20_000


class PatternAutomaton:
    """Which strings match, character by character. Lengths count code points. Raises UnsupportedPatternError.

    min_length: the greatest `least` that will be asked for. More characters than that and the number of states need not
    be looked at: a longer match goes through a state twice, and is one without the way round too.
    """

    def __init__(self, pattern: str, *, min_length: int = 0) -> None:
        self._states: list[State] = []
        before, self._accepting = self._new(), self._new()
        for anywhere in (before, self._accepting):
            self._states[anywhere].edges.append((EVERYTHING, anywhere))
        begin = self._new()
        self._states[before].empty.append(begin)
        end = read_pattern(pattern, self._states, begin)
        self._states[end].empty.append(self._accepting)
        self._closures = [self._closure({state}) for state in range(len(self._states))]
        self._lengths = self._find_lengths(min_length + len(self._states))
        self._kept: dict[tuple[StateSet, int], StateSet] = {}
        self.start = self._closure({before}, is_begin=True)

    def _new(self) -> int:
        self._states.append(State())
        return len(self._states) - 1

    def step(self, states: StateSet, point: int) -> StateSet:
        """After one more character; empty = it cannot match any more."""
        found = self._kept.get((states, point))
        if found is None:
            if len(self._kept) >= _MAX_KEPT_STEPS:
                self._kept.clear()
            reached: set[int] = set()
            for state in states:
                for ranges, target in self._states[state].edges:
                    if contains(ranges, point):
                        reached |= self._closures[target]
            found = self._kept[states, point] = frozenset(reached)
        return found

    def least_length(self, states: StateSet, least: int) -> int | None:
        """The least number of further characters, `least` or more, after which it matches; None = never, 0 = now."""
        lengths = 0
        for state in states:
            lengths |= self._lengths[state]
        rest = lengths >> least
        return None if not rest else least + (rest & -rest).bit_length() - 1

    def least_length_within(self, states: StateSet, ranges: Ranges, least: int) -> int | None:
        """As `least_length`, if the next character is one of these; it is counted."""
        lengths = 0
        for state in states:
            for edge, target in self._states[state].edges:
                if common(edge, ranges):
                    for reached in self._closures[target]:
                        lengths |= self._lengths[reached] << 1
        rest = lengths >> max(least, 1)
        return None if not rest else max(least, 1) + (rest & -rest).bit_length() - 1

    def _closure(self, states: set[int], *, is_begin: bool = False, is_end: bool = False) -> StateSet:
        found, stack = set(states), list(states)
        while stack:
            state = self._states[stack.pop()]
            reached = state.empty + (state.at_begin if is_begin else []) + (state.at_end if is_end else [])
            stack += [other for other in reached if other not in found]
            found.update(reached)
        return frozenset(found)

    def _find_lengths(self, longest: int) -> list[int]:
        """For each state a number whose bit k tells whether it matches with exactly k more characters."""
        lengths = [int(self._accepting in self._closure({state}, is_end=True)) for state in range(len(self._states))]
        targets = [
            {reached for ranges, target in state.edges if ranges for reached in self._closures[target]}
            for state in self._states
        ]
        layer = {state for state, length in enumerate(lengths) if length}
        for length in range(1, longest + 1):
            longer = {state for state, reached in enumerate(targets) if not layer.isdisjoint(reached)}
            if longer == layer:
                every_length = (1 << longest + 1) - (1 << length)
                for state in layer:
                    lengths[state] |= every_length
                break
            layer = longer
            for state in layer:
                lengths[state] |= 1 << length
        return lengths
