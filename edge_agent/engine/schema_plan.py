"""PURE: a JSON Schema as a plan to write it: texts that are forced, choices among a few texts, and free slots.

A plan is a graph of steps, made while it is walked: an array without an end is one circle. What follows a step can be
looked at before the step is taken, so that texts can be cut into tokens together with what comes after them.

JSON is written compact, keys in the schema's order, required ones always. There is no plan for what would need more
than that: recursion, objects with any keys, values of any type, unions whose members begin alike, patterns outside of
the subset of `pattern_automaton`, `not`, `if`, `uniqueItems` and the like.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from edge_agent.engine.number_slot import NumberRules, NumberSlot
from edge_agent.engine.pattern_automaton import PatternAutomaton, UnsupportedPatternError
from edge_agent.engine.schema_grammar import implied_types, integer_bounds, validator
from edge_agent.engine.schema_limits import SchemaError, resolve
from edge_agent.engine.slots import Slot
from edge_agent.engine.string_slot import StringRules, StringSlot


class Later:
    """A step that is made when it is first asked for."""

    def __init__(self, make: Callable[[], Step]) -> None:
        self._make = make
        self._step: Step | None = None

    def __call__(self) -> Step:
        if self._step is None:
            self._step = self._make()
        return self._step


@dataclass(frozen=True, eq=False)
class Literal:
    """Text that is forced."""

    text: str
    then: Later


@dataclass(frozen=True, eq=False)
class Choice:
    """One of these texts, each with what follows it; the first is the one that ends soonest."""

    options: tuple[tuple[str, Later], ...]


@dataclass(frozen=True, eq=False)
class Free:
    """Content that the model writes."""

    slot: Slot
    then: Later


@dataclass(frozen=True, eq=False)
class End:
    """Nothing follows."""


Step = Literal | Choice | Free | End
END = End()
_THE_END = Later(lambda: END)
_Leads = list[tuple[str, Later]]


class SchemaWriter:
    """The plan of one schema."""

    def __init__(self, root: _Writer) -> None:
        self._root = root

    def start(self) -> Step:
        """The first step of a walk."""
        return self._root.write(_THE_END)


def plan(schema: Mapping[str, Any]) -> SchemaWriter | None:
    """None if there is no plan for this schema, which `schema_grammar.check_schema` took."""
    try:
        return SchemaWriter(_Compiler(schema).visit(schema))
    except (_UnplannedError, SchemaError):
        return None


class _UnplannedError(Exception):
    """The schema asks for something that no plan is made for."""


class _Writer(ABC):
    """Writes the values of one schema."""

    @abstractmethod
    def leads(self, then: Later) -> _Leads:
        """The texts with which a value may begin, and what follows each; only a number begins as another does."""

    def write(self, then: Later) -> Step:
        return _choice(self.leads(then))

    def write_after(self, text: str, then: Later) -> _Leads:
        """The same behind this text."""
        return [(text + lead, later) for lead, later in self.leads(then)]


def _choice(options: _Leads) -> Step:
    return Literal(*options[0]) if len(options) == 1 else Choice(tuple(options))


class _Values(_Writer):
    """One of these values; there are few."""

    def __init__(self, values: Sequence[Any]) -> None:
        if not values:
            raise _UnplannedError
        self._texts = dict.fromkeys(json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values)

    def leads(self, then: Later) -> _Leads:
        return [(text, then) for text in self._texts]


class _String(_Writer):
    def __init__(self, rules: StringRules) -> None:
        self._slot = StringSlot.of(rules)
        if rules.least_more(0, self._slot.states) is None:
            raise _UnplannedError

    def leads(self, then: Later) -> _Leads:
        return [('"', Later(lambda: Free(self._slot, Later(lambda: Literal('"', then)))))]


class _Number(_Writer):
    def __init__(self, rules: NumberRules) -> None:
        self._rules = rules
        self._first = [char for char in "0123456789-" if rules.can_become(char)]
        if not self._first:
            raise _UnplannedError

    def leads(self, then: Later) -> _Leads:
        def after(char: str) -> Later:
            return Later(lambda: Free(NumberSlot(self._rules, char), then))

        return [(char, after(char)) for char in self._first]

    def write(self, then: Later) -> Step:
        return Free(NumberSlot(self._rules), then)

    def write_after(self, text: str, then: Later) -> _Leads:
        return [(text, Later(lambda: self.write(then)))]


class _Array(_Writer):
    """low, high: bounds of the number of items, high None = any number."""

    def __init__(self, item: _Writer | None, low: int, high: int | None) -> None:
        self._item = item
        self._low = low
        self._high = high

    def leads(self, then: Later) -> _Leads:
        if self._item is None:
            return [("[]", then)]
        if self._low > 0:
            return self._item.write_after("[", self._rest(1, then))
        # An item that comes first is told from the end by its own begin.
        return [("[]", then), *(("[" + text, later) for text, later in self._item.leads(self._rest(1, then)))]

    def _rest(self, count: int, then: Later) -> Later:
        """After `count` items."""

        def make() -> Step:
            options: _Leads = [("]", then)] if count >= self._low else []
            if self._item is not None and (self._high is None or count < self._high):
                is_circle = self._high is None and count >= self._low
                options += self._item.write_after(",", later if is_circle else self._rest(count + 1, then))
            return _choice(options)

        later = Later(make)
        return later


class _Tuple(_Writer):
    def __init__(self, items: Sequence[_Writer]) -> None:
        self._items = items

    def leads(self, then: Later) -> _Leads:
        return [("[", self._rest(0, then))]

    def _rest(self, index: int, then: Later) -> Later:
        if index == len(self._items):
            return Later(lambda: Literal("]", then))
        item = Later(lambda: self._items[index].write(self._rest(index + 1, then)))
        return item if index == 0 else Later(lambda: Literal(",", item))


class _Object(_Writer):
    """members: key, value and whether it is required."""

    def __init__(self, members: Sequence[tuple[str, _Writer, bool]]) -> None:
        self._members = members

    def leads(self, then: Later) -> _Leads:
        return self._members_from(0, "{", "{}", then)

    def _members_from(self, index: int, before: str, end: str, then: Later) -> _Leads:
        """What may follow when the members before `index` are done; `end` is what closes the object here."""
        options: _Leads = []
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


class _Union(_Writer):
    def __init__(self, members: Sequence[_Writer]) -> None:
        self._members = members
        # Sorted, a text stands right before those that begin with it.
        texts = sorted(text for text, _ in self.leads(_THE_END))
        if any(longer.startswith(text) for text, longer in pairwise(texts)):
            raise _UnplannedError

    def leads(self, then: Later) -> _Leads:
        return [lead for member in self._members for lead in member.leads(then)]


_ANNOTATIONS = frozenset(
    (
        *("$comment", "$defs", "$schema", "default", "definitions", "deprecated", "description", "examples"),
        *("format", "readOnly", "title", "writeOnly"),
    )
)
_KEYWORDS = {
    "object": frozenset(("additionalProperties", "maxProperties", "minProperties", "properties", "required")),
    "array": frozenset(("items", "maxItems", "minItems", "prefixItems")),
    "string": frozenset(("maxLength", "minLength", "pattern")),
    "integer": frozenset(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")),
    "number": frozenset(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")),
    "boolean": frozenset(()),
    "null": frozenset(()),
}
# Integers between bounds this close are a choice.
_MAX_LISTED = 256
# Optional keys are one choice, whose texts are compared at each of them.
_MAX_OPTIONAL = 64


class _Compiler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._references: dict[str, _Writer | None] = {}

    def visit(self, schema: Any) -> _Writer:
        if not isinstance(schema, Mapping):
            raise _UnplannedError
        rules = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
        if "$ref" in rules:
            return self._reference(_only(rules, "$ref"))
        if "const" in rules or "enum" in rules:
            return _values(rules)
        if "allOf" in rules:
            parts = _only(rules, "allOf")
            if len(parts) != 1:
                raise _UnplannedError
            return self.visit(parts[0])
        for keyword in ("anyOf", "oneOf"):
            if keyword in rules:
                return _union([self.visit(option) for option in _only(rules, keyword)])
        types = rules.pop("type", None) or implied_types(rules)
        types = [types] if isinstance(types, str) else list(types)
        if not rules.keys() <= frozenset().union(*(_KEYWORDS[name] for name in types)):
            raise _UnplannedError
        return _union([self._visit_type(name, rules) for name in types])

    def _reference(self, reference: str) -> _Writer:
        if reference not in self._references:
            self._references[reference] = None
            self._references[reference] = self.visit(resolve(self._root, reference, ("$ref",)))
        writer = self._references[reference]
        if writer is None:
            # It is being visited: the schema contains itself.
            raise _UnplannedError
        return writer

    def _visit_type(self, name: str, rules: Mapping[str, Any]) -> _Writer:
        if name == "object":
            return self._visit_object(rules)
        if name == "array":
            return self._visit_array(rules)
        if name == "string":
            return _String(_string_rules(rules))
        if name == "boolean":
            return _Values((True, False))
        if name == "null":
            return _Values((None,))
        return _number(rules, is_integer=name == "integer")

    def _visit_object(self, rules: Mapping[str, Any]) -> _Writer:
        properties: dict[str, Any] = dict(rules.get("properties", {}))
        required = rules.get("required", ())
        additional = rules.get("additionalProperties", True)
        if not properties and not required and additional is not False:
            raise _UnplannedError
        for key in required:
            properties.setdefault(key, additional)
        least, most = int(rules.get("minProperties", 0)), int(rules.get("maxProperties", len(properties)))
        if least > len(required) or most < len(properties):
            raise _UnplannedError
        if len(properties) - len(required) > _MAX_OPTIONAL:
            raise _UnplannedError
        return _Object([(key, self.visit(value), key in required) for key, value in properties.items()])

    def _visit_array(self, rules: Mapping[str, Any]) -> _Writer:
        low, high = int(rules.get("minItems", 0)), rules.get("maxItems")
        if "prefixItems" in rules:
            # As in the grammar: exactly the tuple.
            items = [self.visit(item) for item in rules["prefixItems"]]
            if not low <= len(items) <= (len(items) if high is None else high):
                raise _UnplannedError
            return _Tuple(items)
        if high == 0:
            return _Array(None, 0, 0)
        return _Array(self.visit(rules.get("items", True)), low, None if high is None else int(high))


def _only(rules: Mapping[str, Any], keyword: str) -> Any:
    """The value of the one keyword that there may be."""
    if len(rules) > 1:
        raise _UnplannedError
    return rules[keyword]


def _values(rules: Mapping[str, Any]) -> _Writer:
    """Those of a list that keep to the other keywords."""
    if "$ref" in json.dumps(rules):
        raise _UnplannedError
    listed = rules["enum"] if "enum" in rules else [rules["const"]]
    is_valid = validator(rules).is_valid
    return _Values([value for value in listed if is_valid(value)])


def _union(members: Sequence[_Writer]) -> _Writer:
    return members[0] if len(members) == 1 else _Union(members)


def _string_rules(rules: Mapping[str, Any]) -> StringRules:
    low, high = int(rules.get("minLength", 0)), rules.get("maxLength")
    try:
        pattern = PatternAutomaton(rules["pattern"], min_length=low) if "pattern" in rules else None
    except UnsupportedPatternError:
        raise _UnplannedError from None
    return StringRules(low, None if high is None else int(high), pattern)


def _number(rules: Mapping[str, Any], *, is_integer: bool) -> _Writer:
    step = rules.get("multipleOf", 1)
    if step != int(step):
        # Validation divides floats: 0.3 is no multiple of 0.1.
        raise _UnplannedError
    if is_integer or "multipleOf" in rules:
        least, most = integer_bounds(rules, ())
        if least is not None and most is not None and most - least < _MAX_LISTED:
            return _Values([value for value in range(least, most + 1) if value % int(step) == 0])
        bounds = (None if least is None else Fraction(least), None if most is None else Fraction(most))
        return _Number(NumberRules(True, *bounds, multiple_of=int(step)))
    low, is_low_open = _bound(rules, "minimum", "exclusiveMinimum", max)
    high, is_high_open = _bound(rules, "maximum", "exclusiveMaximum", min)
    return _Number(NumberRules(False, low, high, is_low_open, is_high_open))


def _bound(
    rules: Mapping[str, Any], closed: str, opened: str, tighter: Callable[..., Fraction]
) -> tuple[Fraction | None, bool]:
    """The bound, and whether it is excluded."""
    bounds = {key: Fraction(str(rules[key])) for key in (closed, opened) if key in rules}
    if not bounds:
        return None, False
    bound = tighter(bounds.values())
    return bound, bounds.get(opened) == bound
