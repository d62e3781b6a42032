"""PURE: writers of JSON values, one for each kind: the steps to write a value and then what comes behind it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from edge_agent.engine.answer.number_slot import NumberRules, NumberSlot
from edge_agent.engine.answer.plan_steps import END, Choice, Free, Later, Literal, Step
from edge_agent.engine.answer.string_slot import StringRules, StringSlot

THE_END = Later(lambda: END)
# Texts, and what follows each.
Leads = list[tuple[str, Later]]


class UnplannedError(Exception):
    """The schema asks for something that no plan is made for."""


class Writer(ABC):
    """Writes the values of one schema."""

    @abstractmethod
    def leads(self, then: Later) -> Leads:
        """The texts with which a value may begin, and what follows each; only a number begins as another does."""

    def write(self, then: Later) -> Step:
        return _choice(self.leads(then))

    def write_after(self, text: str, then: Later) -> Leads:
        """The same behind this text."""
        return [(text + lead, later) for lead, later in self.leads(then)]


def _choice(options: Leads) -> Step:
    return Literal(*options[0]) if len(options) == 1 else Choice(tuple(options))


class ValuesWriter(Writer):
    """One of these values; there are few."""

    def __init__(self, values: Sequence[Any]) -> None:
        if not values:
            raise UnplannedError
        self._texts = dict.fromkeys(json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._texts)

    def leads(self, then: Later) -> Leads:
        return [(text, then) for text in self._texts]


class StringWriter(Writer):
    def __init__(self, rules: StringRules) -> None:
        self._slot = StringSlot.of(rules)
        if rules.least_more(0, self._slot.states) is None:
            raise UnplannedError

    def leads(self, then: Later) -> Leads:
        return [('"', Later(lambda: Free(self._slot, Later(lambda: Literal('"', then)))))]


class NumberWriter(Writer):
    def __init__(self, rules: NumberRules) -> None:
        self._rules = rules
        self._first = [char for char in "0123456789-" if rules.can_become(char)]
        if not self._first:
            raise UnplannedError

    def leads(self, then: Later) -> Leads:
        def after(char: str) -> Later:
            return Later(lambda: Free(NumberSlot(self._rules, char), then))

        return [(char, after(char)) for char in self._first]

    def write(self, then: Later) -> Step:
        return Free(NumberSlot(self._rules), then)

    def write_after(self, text: str, then: Later) -> Leads:
        return [(text, Later(lambda: self.write(then)))]


class ArrayWriter(Writer):
    """low, high: bounds of the number of items, high None = any number."""

    def __init__(self, item: Writer | None, low: int, high: int | None) -> None:
        self._item = item
        self._low = low
        self._high = high

    def leads(self, then: Later) -> Leads:
        if self._item is None:
            return [("[]", then)]
        if self._low > 0:
            return self._item.write_after("[", self._rest(1, then))
        # An item that comes first is told from the end by its own begin.
        return [("[]", then), *(("[" + text, later) for text, later in self._item.leads(self._rest(1, then)))]

    def _rest(self, count: int, then: Later) -> Later:
        """After `count` items."""

        def make() -> Step:
            options: Leads = [("]", then)] if count >= self._low else []
            if self._item is not None and (self._high is None or count < self._high):
                is_circle = self._high is None and count >= self._low
                options += self._item.write_after(",", later if is_circle else self._rest(count + 1, then))
            return _choice(options)

        later = Later(make)
        return later


class DistinctItemsWriter(Writer):
    """An array of distinct ones of these texts; low, high: bounds of the number of items."""

    def __init__(self, texts: Sequence[str], low: int, high: int) -> None:
        if low > len(texts):
            raise UnplannedError
        self._texts = texts
        self._low = low
        self._high = min(high, len(texts))

    def leads(self, then: Later) -> Leads:
        end: Leads = [] if self._low else [("[]", then)]
        return end + self._items("[", self._texts, then) if self._high else end

    def _items(self, before: str, left: Sequence[str], then: Later) -> Leads:
        """One of the texts that are left."""
        return [
            (before + text, self._rest([*left[:place], *left[place + 1 :]], then)) for place, text in enumerate(left)
        ]

    def _rest(self, left: Sequence[str], then: Later) -> Later:
        def make() -> Step:
            count = len(self._texts) - len(left)
            options: Leads = [("]", then)] if count >= self._low else []
            return _choice(options + (self._items(",", left, then) if count < self._high else []))

        return Later(make)


class TupleWriter(Writer):
    def __init__(self, items: Sequence[Writer]) -> None:
        self._items = items

    def leads(self, then: Later) -> Leads:
        return [("[", self._rest(0, then))]

    def _rest(self, index: int, then: Later) -> Later:
        if index == len(self._items):
            return Later(lambda: Literal("]", then))
        item = Later(lambda: self._items[index].write(self._rest(index + 1, then)))
        return item if index == 0 else Later(lambda: Literal(",", item))


class ObjectWriter(Writer):
    """members: key, value and whether it is required."""

    def __init__(self, members: Sequence[tuple[str, Writer, bool]]) -> None:
        self._members = members

    def leads(self, then: Later) -> Leads:
        return self._members_from(0, "{", "{}", then)

    def _members_from(self, index: int, before: str, end: str, then: Later) -> Leads:
        """What may follow when the members before `index` are done; `end` is what closes the object here."""
        options: Leads = []
        for place in range(index, len(self._members)):
            key, _, is_required = self._members[place]
            options.append((f"{before}{json.dumps(key, ensure_ascii=False)}:", self._value(place, then)))
            if is_required:
                # First is what leads past the optional ones.
                return options[-1:] + options[:-1]
        return [(end, then), *options]

    def _value(self, place: int, then: Later) -> Later:
        after = Later(lambda: _choice(self._members_from(place + 1, ",", "}", then)))
        return Later(lambda: self._members[place][1].write(after))


class UnionWriter(Writer):
    def __init__(self, members: Sequence[Writer]) -> None:
        self._members = members
        # Sorted, a text stands right before those that begin with it.
        texts = sorted(text for text, _ in self.leads(THE_END))
        if any(longer.startswith(text) for text, longer in pairwise(texts)):
            raise UnplannedError

    def leads(self, then: Later) -> Leads:
        return [lead for member in self._members for lead in member.leads(then)]
