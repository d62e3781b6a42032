"""PURE: a JSON Schema as a GBNF grammar of compact JSON, and whether a schema can be one.

The grammar keeps the schema's key order, writes required keys always and optional ones by the model's choice, and
allows one blank after ":" and "," and no other whitespace: a model that learned `{"a":1}` and one that learned
`{"a": 1}` both write as they learned. What GBNF cannot say (pattern, multipleOf, uniqueItems, not, if, …) it leaves
out, so it may allow more than the schema does: the answer is validated after it is written. No need of llama.cpp here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
from referencing import Registry

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


class SchemaError(ValueError):
    """A schema that cannot hold an answer; the message names the place in the schema."""


def check_schema(schema: object) -> str | None:
    """None if a model can be held to this schema, else what is wrong and where.

    It must be a JSON Schema 2020-12 whose root is an object (`"type": "object"`), with local `$ref` only.
    """
    if not isinstance(schema, dict):
        return f"schema: must be a table (a JSON object), not {type(schema).__name__}"
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"{_place(error.absolute_path)}: {error.message}"
    if schema.get("type") != "object":
        return f'schema.type: must be "object", not {json.dumps(schema.get("type"))}'
    try:
        to_gbnf(schema)
    except SchemaError as error:
        return str(error)
    return None


def validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    """Validates answers; an empty registry keeps it from ever fetching a reference."""
    return jsonschema.Draft202012Validator(schema, registry=Registry())


def to_gbnf(schema: Mapping[str, Any]) -> str:
    """The grammar with root rule `root`. Raises SchemaError."""
    return _Converter(schema).grammar()


class _Converter:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}

    def grammar(self) -> str:
        body = self._visit(self._root, ())
        lines = [f"root ::= {body}"]
        lines += [f"{name} ::= {rule}" for name, rule in (*_BASE_RULES.items(), *self._rules.items())]
        return "\n".join(lines) + "\n"

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _visit(self, schema: Any, path: tuple[str, ...]) -> str:
        """A GBNF expression, safe to place in a sequence."""
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, Mapping):
            raise SchemaError(f"{_place(path)}: allows nothing")
        if "$ref" in schema:
            return self._visit_reference(schema["$ref"], (*path, "$ref"))
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return self._either([_literal(value) for value in schema["enum"]], path)
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
            return self._visit(merged, path)
        types = schema.get("type", _implied_types(schema))
        types = [types] if isinstance(types, str) else list(types)
        return self._either([self._visit_type(name, schema, path) for name in types], path)

    def _either(self, options: Sequence[str], path: tuple[str, ...]) -> str:
        distinct = list(dict.fromkeys(options))
        if not distinct:
            raise SchemaError(f"{_place(path)}: allows nothing")
        return distinct[0] if len(distinct) == 1 else f"({' | '.join(distinct)})"

    def _visit_type(self, name: str, schema: Mapping[str, Any], path: tuple[str, ...]) -> str:
        if name == "object":
            return self._visit_object(schema, path)
        if name == "array":
            return self._visit_array(schema, path)
        if name == "string":
            return _string(schema)
        if name == "integer":
            return _integer(schema)
        if name == "number":
            is_positive = schema.get("minimum", -1) >= 0 or schema.get("exclusiveMinimum", -1) >= 0
            return "natural fraction" if is_positive else "number"
        return name

    def _visit_object(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> str:
        properties: dict[str, Any] = dict(schema.get("properties", {}))
        required = list(schema.get("required", ()))
        additional = schema.get("additionalProperties", True)
        for key in required:
            if key not in properties:
                if additional is False:
                    raise SchemaError(f"{_place((*path, 'required'))}: {key!r} is required, but not allowed")
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
            member = self._rule(f'{_literal(key)} ":" ws {expression}')
            following = f'"," ws {member} {after}'
            if key in required:
                first = self._rule(f"{member} {after}")
                after = self._rule(following)
            else:
                first = self._rule(f"{member} {after} | {first or _NOTHING}")
                after = self._rule(f"{following} | {after or _NOTHING}")
        return f'"{{" {first} "}}"'

    def _visit_array(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> str:
        low, high = int(schema.get("minItems", 0)), schema.get("maxItems")
        if tuple_items := schema.get("prefixItems"):
            # JSON Schema lets a tuple end early or go on; a model is asked for exactly the tuple.
            fixed = [self._visit(item, (*path, "prefixItems", str(index))) for index, item in enumerate(tuple_items)]
            return '"[" ' + ' "," ws '.join(fixed) + ' "]"'
        if high == 0:
            return '"[]"'
        item = self._rule(self._visit(schema.get("items", True), (*path, "items")))
        if low > _MAX_ITEMS:
            raise SchemaError(f"{_place((*path, 'minItems'))}: at most {_MAX_ITEMS} can be asked for, not {low}")
        bound = "" if high is None or high > _MAX_ITEMS else str(int(high) - 1)
        more = self._rule(f'"," ws {item}')
        items = f"{item} {more}{{{max(low - 1, 0)},{bound}}}" if bound != "0" else item
        return f'"[" {items} "]"' if low > 0 else f'"[" ({items})? "]"'

    def _visit_reference(self, reference: str, path: tuple[str, ...]) -> str:
        if reference not in self._references:
            name = f"ref{len(self._references)}"
            # Named before it is visited, so that a schema may contain itself.
            self._references[reference] = name
            self._rules[name] = ""
            self._rules[name] = self._visit(self._find(reference, path), path)
            if self._rules[name] == name:
                raise SchemaError(f"{_place(path)}: {reference!r} refers only to itself")
        return self._references[reference]

    def _resolved(self, schema: Any, path: tuple[str, ...]) -> Any:
        if isinstance(schema, Mapping) and "$ref" in schema:
            return self._find(schema["$ref"], (*path, "$ref"))
        return schema

    def _find(self, reference: str, path: tuple[str, ...]) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            raise SchemaError(f'{_place(path)}: must be local ("#/…"), not {reference!r}')
        found: Any = self._root
        for raw in reference.removeprefix("#").split("/")[1:]:
            step = raw.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                raise SchemaError(f"{_place(path)}: {reference!r} is not in the schema")
        return found


def _merged(base: Mapping[str, Any], part: Any) -> Any:
    if not isinstance(part, Mapping):
        return base if part is True else part
    merged = {**base, **part}
    if "properties" in base and "properties" in part:
        merged["properties"] = {**base["properties"], **part["properties"]}
    if "required" in base and "required" in part:
        merged["required"] = list(dict.fromkeys([*base["required"], *part["required"]]))
    return merged


def _implied_types(schema: Mapping[str, Any]) -> Sequence[str]:
    if "properties" in schema or "required" in schema:
        return ("object",)
    if "items" in schema or "prefixItems" in schema:
        return ("array",)
    if "minLength" in schema or "maxLength" in schema or "pattern" in schema:
        return ("string",)
    if "minimum" in schema or "maximum" in schema:
        return ("number",)
    return _TYPES


def _string(schema: Mapping[str, Any]) -> str:
    low, high = int(schema.get("minLength", 0)), schema.get("maxLength")
    low = min(low, _MAX_CHARACTERS)
    bound = "" if high is None or high > _MAX_CHARACTERS else str(int(high))
    if bound == "0":
        return r'"\"\""'
    return rf'"\"" char{{{low},{bound}}} "\""' if low or bound else "string"


def _integer(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + 1
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - 1
    if low is not None and high is not None and 0 <= high - low < _MAX_LISTED:
        return f"({' | '.join(_quoted(str(value)) for value in range(-int(-low // 1), int(high // 1) + 1))})"
    return "natural" if low is not None and low >= 0 else "integer"


def _literal(value: Any) -> str:
    return _quoted(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return '"' + "".join(f"\\x{ord(char):02X}" if ord(char) < 0x20 else char for char in escaped) + '"'


def _place(path: Sequence[str | int]) -> str:
    return ".".join(["schema", *map(str, path)])
