"""PURE: a JSON Schema as a GBNF grammar of compact JSON, and whether a schema can be one.

The grammar keeps the schema's key order, writes required keys always and optional ones by the model's choice, and
allows one blank after ":" and "," and no other whitespace: a model that learned `{"a":1}` and one that learned
`{"a": 1}` both write as they learned. What GBNF cannot say (pattern, multipleOf, uniqueItems, not, if, …) it leaves
out, so it may allow more than the schema does: the answer is validated after it is written. No need of llama.cpp here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.core.schemas import Path, SchemaError, resolve
from edge_agent.engine.answer.gbnf import endless_rules

_BASE_RULES = {
    "ws": '" "?',
    # Ranges that end with Unicode, and no lone surrogates, written out or escaped: UTF-8 has no place for them.
    "char": (
        r'[\x20-\x21\x23-\x5B\x5D-\x7E\x80-\uD7FF\uE000-\U0010FFFF] | "\\" (["\\/bfnrt] '
        r'| "u" ([0-9a-cA-CefEF] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] | [dD] [0-7] [0-9a-fA-F] [0-9a-fA-F]))'
    ),
    "string": r'"\"" char* "\""',
    "natural": '"0" | [1-9] [0-9]{0,15}',
    "integer": '"-"? natural',
    "fraction": '("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "number": "integer fraction",
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "member": 'string ":" ws value',
    "object": '"{" (member ("," ws member)*)? "}"',
    "array": '"[" (value ("," ws value)*)? "]"',
}
_NOTHING = '""'
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
# llama.cpp refuses to repeat more than 2000 elements; beyond this a bound is left to the validation.
_MAX_CHARACTERS = 1000
_MAX_ITEMS = 100
# Integers between bounds this close are listed one by one.
_MAX_LISTED = 256
# Keywords and references on the way to a schema.
_MAX_STEPS = 64
# Characters of the rules plus repetitions, which llama.cpp writes out: 200 thousand cost it 0.1 s and 25 MB.
_MAX_SIZE = 200_000


def to_gbnf(schema: Mapping[str, Any]) -> str:
    """The grammar with root rule `root`. Raises SchemaError."""
    return _Converter(schema).grammar()


class _Converter:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}
        self._places: dict[str, Path] = {}
        self._size = 0

    def grammar(self) -> str:
        body = self._visit(self._root, ())
        for name in endless_rules({**_BASE_RULES, **self._rules, "root": body}):
            if name in self._places:
                raise SchemaError(f"{place(self._places[name])}: requires itself again and again, without an end")
        lines = [f"root ::= {body}"]
        lines += [f"{name} ::= {rule}" for name, rule in (*_BASE_RULES.items(), *self._rules.items())]
        return "\n".join(lines) + "\n"

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _visit(self, schema: Any, path: Path) -> str:
        """A GBNF expression, safe to place in a sequence."""
        check_steps(path)
        self._grow(20, path)
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, Mapping):
            raise SchemaError(f"{place(path)}: allows nothing")
        if "$ref" in schema:
            return self._visit_reference(schema["$ref"], (*path, "$ref"))
        if "const" in schema:
            return self._literal(schema["const"], (*path, "const"))
        if "enum" in schema:
            return self._either([self._literal(value, (*path, "enum")) for value in schema["enum"]], path)
        for keyword in ("oneOf", "anyOf"):
            if keyword in schema:
                base = {key: value for key, value in schema.items() if key != keyword}
                return self._either(
                    [
                        self._visit(_merged(base, option), (*path, keyword, str(index)))
                        for index, option in enumerate(schema[keyword])
                    ],
                    path,
                )
        if "allOf" in schema:
            merged: Mapping[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
            for index, part in enumerate(schema["allOf"]):
                merged = _merged(merged, self._resolved(part, (*path, "allOf", str(index))))
            return self._visit(merged, (*path, "allOf"))
        types = schema.get("type", implied_types(schema))
        types = [types] if isinstance(types, str) else list(types)
        return self._either([self._visit_type(name, schema, path) for name in types], path)

    def _either(self, options: Sequence[str], path: Path) -> str:
        distinct = list(dict.fromkeys(options))
        if not distinct:
            raise SchemaError(f"{place(path)}: allows nothing")
        return distinct[0] if len(distinct) == 1 else f"({' | '.join(distinct)})"

    def _visit_type(self, name: str, schema: Mapping[str, Any], path: Path) -> str:
        if name == "object":
            return self._visit_object(schema, path)
        if name == "array":
            return self._visit_array(schema, path)
        if name == "string":
            return self._visit_string(schema, path)
        if name == "integer":
            return self._visit_integer(schema, path)
        if name == "number":
            return _number(schema, path)
        return name

    def _visit_object(self, schema: Mapping[str, Any], path: Path) -> str:
        _count_bounds("Properties", schema, path)
        properties: dict[str, Any] = dict(schema.get("properties", {}))
        required = list(schema.get("required", ()))
        additional = schema.get("additionalProperties", True)
        for key in required:
            if key not in properties:
                if additional is False:
                    raise SchemaError(f"{place((*path, 'required'))}: {key!r} is required, but not allowed")
                properties[key] = additional
        if not properties:
            if additional is False:
                return '"{}"'
            if additional is True or additional == {}:
                return "object"
            value = self._visit(additional, (*path, "additionalProperties"))
            member = self._rule(f'string ":" ws {value}')
            return f'"{{" ({member} ("," ws {member})*)? "}}"'
        # From the last key to the first: what may follow a key that was written, and what if none was yet.
        after, first = "", ""
        for key, subschema in reversed(properties.items()):
            expression = self._visit(subschema, (*path, "properties", key))
            member = self._rule(f'{self._literal(key, path)} ":" ws {expression}')
            following = f'"," ws {member} {after}'
            if key in required:
                first = self._rule(f"{member} {after}")
                after = self._rule(following)
            else:
                first = self._rule(f"{member} {after} | {first or _NOTHING}")
                after = self._rule(f"{following} | {after or _NOTHING}")
        return f'"{{" {first} "}}"'

    def _visit_array(self, schema: Mapping[str, Any], path: Path) -> str:
        low, high = _count_bounds("Items", schema, path)
        if tuple_items := schema.get("prefixItems"):
            # JSON Schema lets a tuple end early or go on; a model is asked for exactly the tuple.
            if low > len(tuple_items) or (high is not None and high < len(tuple_items)):
                raise SchemaError(
                    f"{place((*path, 'prefixItems'))}: has {len(tuple_items)} items, which its bounds forbid"
                )
            fixed = [self._visit(item, (*path, "prefixItems", str(index))) for index, item in enumerate(tuple_items)]
            return '"[" ' + ' "," ws '.join(fixed) + ' "]"'
        if high == 0:
            return '"[]"'
        item = self._rule(self._visit(schema.get("items", True), (*path, "items")))
        if low > _MAX_ITEMS:
            raise SchemaError(f"{place((*path, 'minItems'))}: at most {_MAX_ITEMS} can be asked for, not {low}")
        bound = "" if high is None or high > _MAX_ITEMS else str(high - 1)
        self._grow(int(bound or low), path)
        more = self._rule(f'"," ws {item}')
        items = f"{item} {more}{{{max(low - 1, 0)},{bound}}}" if bound != "0" else item
        return f'"[" {items} "]"' if low > 0 else f'"[" ({items})? "]"'

    def _visit_string(self, schema: Mapping[str, Any], path: Path) -> str:
        low, high = _count_bounds("Length", schema, path)
        if low > _MAX_CHARACTERS:
            raise SchemaError(f"{place((*path, 'minLength'))}: at most {_MAX_CHARACTERS} can be asked for, not {low}")
        bound = "" if high is None or high > _MAX_CHARACTERS else str(high)
        if bound == "0":
            return r'"\"\""'
        self._grow(int(bound or low), path)
        return rf'"\"" char{{{low},{bound}}} "\""' if low or bound else "string"

    def _visit_integer(self, schema: Mapping[str, Any], path: Path) -> str:
        low, high = integer_bounds(schema, path)
        if low is not None and high is not None and high - low < _MAX_LISTED:
            return f"({' | '.join(self._literal(value, path) for value in range(low, high + 1))})"
        return "natural" if low is not None and low >= 0 else "integer"

    def _visit_reference(self, reference: str, path: Path) -> str:
        if reference not in self._references:
            name = f"ref{len(self._references)}"
            # Named before it is visited, so that a schema may contain itself.
            self._references[reference] = name
            self._places[name] = path
            self._rules[name] = self._visit(resolve(self._root, reference, path), path)
        return self._references[reference]

    def _resolved(self, schema: Any, path: Path) -> Any:
        if isinstance(schema, Mapping) and "$ref" in schema:
            return resolve(self._root, schema["$ref"], (*path, "$ref"))
        return schema

    def _literal(self, value: Any, path: Path) -> str:
        text = _quoted(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        self._grow(len(text), path)
        return text

    def _grow(self, size: int, path: Path) -> None:
        self._size += size
        if self._size > _MAX_SIZE:
            raise SchemaError(f"{place(path)}: the grammar grows too large here: lower the bounds, or ask for less")


def _merged(base: Mapping[str, Any], part: Any) -> Any:
    if not isinstance(part, Mapping):
        return base if part is True else part
    merged = {**base, **part}
    if "properties" in base and "properties" in part:
        merged["properties"] = {**base["properties"], **part["properties"]}
    if "required" in base and "required" in part:
        merged["required"] = list(dict.fromkeys([*base["required"], *part["required"]]))
    return merged


def implied_types(schema: Mapping[str, Any]) -> Sequence[str]:
    if "properties" in schema or "required" in schema:
        return ("object",)
    if "items" in schema or "prefixItems" in schema:
        return ("array",)
    if "minLength" in schema or "maxLength" in schema or "pattern" in schema:
        return ("string",)
    if "minimum" in schema or "maximum" in schema:
        return ("number",)
    return _TYPES


def _count_bounds(what: str, schema: Mapping[str, Any], path: Path) -> tuple[int, int | None]:
    low, high = int(schema.get(f"min{what}", 0)), schema.get(f"max{what}")
    if high is not None and low > high:
        raise SchemaError(f"{place((*path, f'min{what}'))}: {low} is more than max{what}, which is {high}")
    return low, None if high is None else int(high)


def _number(schema: Mapping[str, Any], path: Path) -> str:
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    is_open = low == schema.get("exclusiveMinimum") or high == schema.get("exclusiveMaximum")
    if low > high or (low == high and is_open):
        raise SchemaError(f"{place(path)}: no number is between its bounds {low} and {high}")
    return "natural fraction" if low >= 0 else "number"


def integer_bounds(schema: Mapping[str, Any], path: Path) -> tuple[int | None, int | None]:
    lows = [math.ceil(schema["minimum"])] if "minimum" in schema else []
    lows += [math.floor(schema["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in schema else []
    highs = [math.floor(schema["maximum"])] if "maximum" in schema else []
    highs += [math.ceil(schema["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in schema else []
    low, high = max(lows, default=None), min(highs, default=None)
    if low is not None and high is not None and low > high:
        raise SchemaError(f"{place(path)}: no integer is between its bounds")
    return low, high


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return '"' + "".join(f"\\x{ord(char):02X}" if ord(char) < 0x20 else char for char in escaped) + '"'


def place(path: Path) -> str:
    return ".".join(["schema", *map(str, path)])


def check_steps(path: Path) -> None:
    """Raises SchemaError for a path on which recursion would come too deep."""
    if len(path) > _MAX_STEPS:
        raise SchemaError(f"{place(path[:6])}.…: leads through more than {_MAX_STEPS} keywords and references")
