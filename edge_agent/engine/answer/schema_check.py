"""Which schemas llguidance can hold a model to; run as a process of its own, so that the agent needs no engine.

Standard input is a JSON object of schemas by name, standard output one of lists of warnings by name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# Keywords that llguidance does not know are left to the validation of the finished answer.
_OPTIONS: JsonCompileOptions = {"whitespace_flexible": False, "lenient": True, "coerce_one_of": True}
# Keywords that hold schemas by name, and those that hold values.
_TABLES = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
_VALUES = {"const", "default", "enum", "examples"}
# Keywords that say which other properties an object has, which types are allowed, and which type is meant.
_OPEN = {"additionalProperties", "patternProperties", "unevaluatedProperties"}
_TYPED = {"type", "const", "enum", "$ref", "allOf", "anyOf", "oneOf"}
_IMPLIED_TYPES = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
    "pattern": "string",
    "minLength": "string",
    "maxLength": "string",
    "minimum": "number",
    "maximum": "number",
}


def grammar_of(schema: Mapping[str, Any]) -> str:
    """The grammar of compact JSON for an LLMatcher; objects have no properties beside those that are listed."""
    closed = _grammar(_closed(schema))
    is_error, _ = LLMatcher.validate_grammar_with_warnings(closed)
    return _grammar(schema) if is_error else closed


def warnings_of(schema: Mapping[str, Any]) -> list[str]:
    """What an answer is not held to while it is written."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar_of(schema))
    if is_error:
        return [f"answers are written freely and validated: {messages[0]}"]
    return [f"is validated, but not enforced while writing: {message}" for message in messages]


def _grammar(schema: Mapping[str, Any]) -> str:
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_OPTIONS)


def _closed(schema: Any) -> Any:
    """The schema with the types that its keywords imply, and no other properties than it lists.

    JSON Schema allows every type and every property that is not mentioned; an author hardly means that.
    """
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    for key, inner in schema.items():
        if key in _TABLES and isinstance(inner, dict):
            closed[key] = {name: _closed(value) for name, value in inner.items()}
        else:
            closed[key] = inner if key in _VALUES else _closed(inner)
    implied = next((_IMPLIED_TYPES[key] for key in schema if key in _IMPLIED_TYPES), None)
    if implied and not _TYPED & schema.keys():
        closed["type"] = implied
    if "properties" in schema and not _OPEN & schema.keys():
        closed["additionalProperties"] = False
    return closed


def main() -> None:
    schemas = json.load(sys.stdin)
    json.dump({name: warnings_of(schema) for name, schema in schemas.items()}, sys.stdout)


if __name__ == "__main__":
    main()
