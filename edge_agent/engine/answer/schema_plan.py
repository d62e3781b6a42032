"""PURE: a JSON Schema as a plan to write it, if there is one.

JSON is written compact, keys in the schema's order, required ones always. There is no plan for what would need more
than that: recursion, objects with any keys, values of any type, unions whose members begin alike, patterns outside of
the subset of `pattern_reader`, `not`, `if`, `uniqueItems` of other than a few values, and the like.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from edge_agent.core.schemas import SchemaError, resolve, validator
from edge_agent.engine.answer.json_writers import (
    THE_END,
    ArrayWriter,
    DistinctItemsWriter,
    NumberWriter,
    ObjectWriter,
    StringWriter,
    TupleWriter,
    UnionWriter,
    UnplannedError,
    ValuesWriter,
    Writer,
)
from edge_agent.engine.answer.number_slot import NumberRules
from edge_agent.engine.answer.pattern_automaton import PatternAutomaton
from edge_agent.engine.answer.pattern_reader import UnsupportedPatternError
from edge_agent.engine.answer.plan_steps import Step
from edge_agent.engine.answer.schema_grammar import implied_types, integer_bounds
from edge_agent.engine.answer.string_slot import StringRules


class SchemaWriter:
    """The plan of one schema."""

    def __init__(self, root: Writer) -> None:
        self._root = root

    def start(self) -> Step:
        """The first step of a walk."""
        return self._root.write(THE_END)


def plan(schema: Mapping[str, Any]) -> SchemaWriter | None:
    """None if there is no plan for this schema, which `schema_grammar.check_schema` took."""
    try:
        return SchemaWriter(_Compiler(schema).visit(schema))
    except (UnplannedError, SchemaError):
        return None


_ANNOTATIONS = frozenset(
    (
        *("$comment", "$defs", "$schema", "default", "definitions", "deprecated", "description", "examples"),
        *("format", "readOnly", "title", "writeOnly"),
    )
)
_KEYWORDS = {
    "object": frozenset(("additionalProperties", "maxProperties", "minProperties", "properties", "required")),
    "array": frozenset(("items", "maxItems", "minItems", "prefixItems", "uniqueItems")),
    "string": frozenset(("maxLength", "minLength", "pattern")),
    "integer": frozenset(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")),
    "number": frozenset(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")),
    "boolean": frozenset(()),
    "null": frozenset(()),
}
# Integers between bounds this close are a choice.
_MAX_LISTED = 256
# Of distinct items every choice is followed by one among the others: the steps that are looked at grow with the cube.
_MAX_DISTINCT = 16
# Optional keys are one choice, whose texts are compared at each of them.
_MAX_OPTIONAL = 64


class _Compiler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._references: dict[str, Writer | None] = {}

    def visit(self, schema: Any) -> Writer:
        if not isinstance(schema, Mapping):
            raise UnplannedError
        rules = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
        if "$ref" in rules:
            return self._reference(_only(rules, "$ref"))
        if "const" in rules or "enum" in rules:
            return _values(rules)
        if "allOf" in rules:
            parts = _only(rules, "allOf")
            if len(parts) != 1:
                raise UnplannedError
            return self.visit(parts[0])
        for keyword in ("anyOf", "oneOf"):
            if keyword in rules:
                return _union([self.visit(option) for option in _only(rules, keyword)])
        types = rules.pop("type", None) or implied_types(rules)
        types = [types] if isinstance(types, str) else list(types)
        if not rules.keys() <= frozenset().union(*(_KEYWORDS[name] for name in types)):
            raise UnplannedError
        return _union([self._visit_type(name, rules) for name in types])

    def _reference(self, reference: str) -> Writer:
        if reference not in self._references:
            self._references[reference] = None
            self._references[reference] = self.visit(resolve(self._root, reference, ("$ref",)))
        writer = self._references[reference]
        if writer is None:
            # It is being visited: the schema contains itself.
            raise UnplannedError
        return writer

    def _visit_type(self, name: str, rules: Mapping[str, Any]) -> Writer:
        if name == "object":
            return self._visit_object(rules)
        if name == "array":
            return self._visit_array(rules)
        if name == "string":
            return StringWriter(_string_rules(rules))
        if name == "boolean":
            return ValuesWriter((True, False))
        if name == "null":
            return ValuesWriter((None,))
        return _number(rules, is_integer=name == "integer")

    def _visit_object(self, rules: Mapping[str, Any]) -> Writer:
        properties: dict[str, Any] = dict(rules.get("properties", {}))
        required = rules.get("required", ())
        additional = rules.get("additionalProperties", True)
        if not properties and not required and additional is not False:
            raise UnplannedError
        for key in required:
            properties.setdefault(key, additional)
        least, most = int(rules.get("minProperties", 0)), int(rules.get("maxProperties", len(properties)))
        if least > len(required) or most < len(properties):
            raise UnplannedError
        if len(properties) - len(required) > _MAX_OPTIONAL:
            raise UnplannedError
        return ObjectWriter([(key, self.visit(value), key in required) for key, value in properties.items()])

    def _visit_array(self, rules: Mapping[str, Any]) -> Writer:
        low, high = int(rules.get("minItems", 0)), rules.get("maxItems")
        if rules.get("uniqueItems", False):
            return self._visit_distinct(rules, low, high)
        if "prefixItems" in rules:
            # As in the grammar: exactly the tuple.
            items = [self.visit(item) for item in rules["prefixItems"]]
            if not low <= len(items) <= (len(items) if high is None else high):
                raise UnplannedError
            return TupleWriter(items)
        if high == 0:
            return ArrayWriter(None, 0, 0)
        return ArrayWriter(self.visit(rules.get("items", True)), low, None if high is None else int(high))

    def _visit_distinct(self, rules: Mapping[str, Any], low: int, high: Any) -> Writer:
        items = None if "prefixItems" in rules else self.visit(rules.get("items", True))
        if not isinstance(items, ValuesWriter) or len(items.texts) > _MAX_DISTINCT:
            raise UnplannedError
        values = [json.loads(text) for text in items.texts]
        # 1 and 1.0 are two texts of one value.
        if not validator({"uniqueItems": True}).is_valid(values):
            raise UnplannedError
        return DistinctItemsWriter(items.texts, low, len(values) if high is None else int(high))


def _only(rules: Mapping[str, Any], keyword: str) -> Any:
    """The value of the one keyword that there may be."""
    if len(rules) > 1:
        raise UnplannedError
    return rules[keyword]


def _values(rules: Mapping[str, Any]) -> Writer:
    """Those of a list that keep to the other keywords."""
    if "$ref" in json.dumps(rules):
        raise UnplannedError
    keyword = "enum" if "enum" in rules else "const"
    listed = rules["enum"] if keyword == "enum" else [rules["const"]]
    # Not by the list itself: to look each up in it would take time with the square of its length.
    is_valid = validator({name: rule for name, rule in rules.items() if name != keyword}).is_valid
    return ValuesWriter([value for value in listed if is_valid(value)])


def _union(members: Sequence[Writer]) -> Writer:
    return members[0] if len(members) == 1 else UnionWriter(members)


def _string_rules(rules: Mapping[str, Any]) -> StringRules:
    low, high = int(rules.get("minLength", 0)), rules.get("maxLength")
    try:
        pattern = PatternAutomaton(rules["pattern"], min_length=low) if "pattern" in rules else None
    except UnsupportedPatternError:
        raise UnplannedError from None
    return StringRules(low, None if high is None else int(high), pattern)


def _number(rules: Mapping[str, Any], *, is_integer: bool) -> Writer:
    step = rules.get("multipleOf", 1)
    if step != int(step):
        # Validation divides floats: 0.3 is no multiple of 0.1.
        raise UnplannedError
    if is_integer or "multipleOf" in rules:
        least, most = integer_bounds(rules, ())
        if least is not None and most is not None and most - least < _MAX_LISTED:
            return ValuesWriter([value for value in range(least, most + 1) if value % int(step) == 0])
        bounds = (None if least is None else Fraction(least), None if most is None else Fraction(most))
        return NumberWriter(NumberRules(True, *bounds, multiple_of=int(step)))
    low, is_low_open = _bound(rules, "minimum", "exclusiveMinimum", max)
    high, is_high_open = _bound(rules, "maximum", "exclusiveMaximum", min)
    return NumberWriter(NumberRules(False, low, high, is_low_open, is_high_open))


def _bound(
    rules: Mapping[str, Any], closed: str, opened: str, tighter: Callable[..., Fraction]
) -> tuple[Fraction | None, bool]:
    """The bound, and whether it is excluded."""
    bounds = {key: Fraction(str(rules[key])) for key in (closed, opened) if key in rules}
    if not bounds:
        return None, False
    bound = tighter(bounds.values())
    return bound, bounds.get(opened) == bound
