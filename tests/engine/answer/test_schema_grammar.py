from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from time import perf_counter
from typing import Any

import pytest

from edge_agent.engine.answer.schema_grammar import check_schema, to_gbnf, validator
from edge_agent.engine.llama_engine import LlamaEngine
from tests.engine.runs import SCHEMA


def schema_of(**properties: Any) -> dict[str, Any]:
    """An object that requires each of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}}},
    "required": ["name"],
    "$defs": {"part": {"type": "object", "properties": {"part": {"$ref": "#/$defs/part"}}}},
}
OPTIONAL: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
    "required": ["b"],
}
ACCEPTED: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        SCHEMA,
        ['{"pump":"P-1","severity":3,"urgent":true}', '{"pump": "é°", "severity": 5, "urgent": false}'],
        [
            '{"severity":3,"pump":"P-1","urgent":true}',
            '{"pump":"","severity":3,"urgent":true}',
            '{"pump":"123456789","severity":3,"urgent":true}',
            '{"pump":"P","severity":6,"urgent":true}',
            '{"pump":"P","severity":3}',
            '{"pump":"P","severity":3,"urgent":true} ',
            '{\n"pump":"P","severity":3,"urgent":true}',
        ],
    ),
    (OPTIONAL, ['{"b":null}', '{"a":null,"b":null}', '{"b":null,"c":null}', '{"a":null,"b":null,"c":null}'], ["{}"]),
    ({"type": "object", "properties": {"a": {"const": 1}}}, ["{}", '{"a":1}'], ['{"a":2}', '{"b":1}']),
    ({"type": "object"}, ["{}", '{"x":[1,{"y":null}]}'], ["[]", "1"]),
    ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a":1}']),
    (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        ["{}", '{"a":1}', '{"a":1, "b":-2}'],
        ['{"a":"1"}'],
    ),
    (schema_of(v={"type": "number"}), ['{"v":-1.5e-3}', '{"v":0}'], ['{"v":01}', '{"v":.5}', '{"v":"1"}']),
    (schema_of(v={"type": "number", "minimum": 0}), ['{"v":1.5}'], ['{"v":-1.5}']),
    (schema_of(v={"type": "integer", "minimum": -1, "exclusiveMaximum": 2}), ['{"v":-1}', '{"v":1}'], ['{"v":2}']),
    (schema_of(v={"type": "integer", "minimum": 0}), ['{"v":123456}'], ['{"v":-1}', '{"v":1.5}']),
    (schema_of(v={"type": ["string", "null"]}), ['{"v":null}', '{"v":"a\\n\\u00e9"}'], ['{"v":1}', '{"v":"\\ud800"}']),
    (schema_of(v={"enum": ["a\\b", 'q"', 1, None]}), ['{"v":"a\\\\b"}', '{"v":"q\\""}', '{"v":1}'], ['{"v":2}']),
    (
        schema_of(v={"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}),
        ['{"v":[true]}', '{"v":[true,false]}', '{"v":[true, false]}'],
        ['{"v":[]}', '{"v":[true,true,true]}'],
    ),
    (schema_of(v={"type": "array", "maxItems": 1}), ['{"v":[]}', '{"v":[{}]}'], ['{"v":[1,2]}']),
    (schema_of(v={"type": "array", "maxItems": 0}), ['{"v":[]}'], ['{"v":[1]}']),
    (schema_of(v={"prefixItems": [{"const": 1}, {"const": "x"}]}), ['{"v":[1,"x"]}'], ['{"v":[1]}', '{"v":["x",1]}']),
    (schema_of(v={"anyOf": [{"const": 1}, {"type": "null"}]}), ['{"v":1}', '{"v":null}'], ['{"v":2}']),
    (
        schema_of(v={"allOf": [schema_of(a={"const": 1}), schema_of(b={"const": 2})]}),
        ['{"v":{"a":1,"b":2}}'],
        ['{"v":{"a":1}}'],
    ),
    (
        TREE,
        ['{"name":"x"}', '{"name":"x","parts":[{"part":{"part":{}}}]}'],
        ['{"parts":[]}', '{"name":"x","parts":[1]}'],
    ),
    (schema_of(v={"type": "string", "maxLength": 5000}), ['{"v":"long"}'], []),
    ({"type": "object", "properties": {}, "required": ["x"]}, ['{"x":[1]}'], ["{}"]),
]


@pytest.fixture
def takes(open_llama: Callable[..., LlamaEngine]) -> Callable[[str, str], bool]:
    """Whether llama.cpp's grammar takes exactly this text and sees that it is complete."""
    llama = open_llama()._llama

    def takes(gbnf: str, text: str) -> bool:
        grammar = llama.grammar(gbnf)
        try:
            for token in llama.tokenize(text, parse_special=False):
                if not grammar.allows(token):
                    return False
                grammar.accept(token)
            return grammar.allows(llama.end_of_turn)
        finally:
            grammar.close()

    return takes


def test_grammars_take_what_schemas_ask_for_and_nothing_else(takes: Callable[[str, str], bool]) -> None:
    for schema, valid, invalid in ACCEPTED:
        assert check_schema(schema) is None
        gbnf = to_gbnf(schema)
        for text in valid:
            validator(schema).validate(json.loads(text))
            assert takes(gbnf, text), f"{text} of {schema}"
        for text in invalid:
            assert not takes(gbnf, text), f"{text} of {schema}"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], "schema: must be a table (a JSON object), not list"),
        ({}, 'schema.type: must be "object", not null'),
        ({"type": "array"}, 'schema.type: must be "object", not "array"'),
        ({"type": "object", "properties": {"a": {"type": "foo"}}}, "schema.properties.a.type: 'foo' is not valid"),
        (
            {"type": "object", "properties": {"a": {"$ref": "https://example.org/s"}}},
            "schema.properties.a.$ref: must be local (\"#/…\"), not 'https://example.org/s'",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}},
            "schema.properties.a.$ref: '#/$defs/b' is not in the schema",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}},
            "schema.properties.a.$ref: leads back to itself with no object or array between",
        ),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "schema.properties.a: allows nothing"),
        (
            {"type": "object", "required": ["a"], "additionalProperties": False},
            "schema.required: 'a' is required, but not allowed",
        ),
        (schema_of(v={"type": "array", "minItems": 500}), "schema.properties.v.minItems: at most 100"),
        (schema_of(v={"type": "string", "minLength": 5000}), "schema.properties.v.minLength: at most 1000"),
        (
            schema_of(v={"type": "string", "minLength": 5, "maxLength": 2}),
            "schema.properties.v.minLength: 5 is more than maxLength, which is 2",
        ),
        (
            schema_of(v={"type": "array", "minItems": 5, "maxItems": 2}),
            "schema.properties.v.minItems: 5 is more than maxItems, which is 2",
        ),
        (schema_of(v={"prefixItems": [True], "minItems": 2}), "schema.properties.v.prefixItems: has 1 items"),
        (
            schema_of(v={"type": "integer", "minimum": 1.2, "maximum": 1.8}),
            "schema.properties.v: no integer is between its bounds",
        ),
        (
            schema_of(v={"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}),
            "schema.properties.v: no integer is between its bounds",
        ),
        (
            schema_of(v={"type": "number", "minimum": 2, "exclusiveMaximum": 2}),
            "schema.properties.v: no number is between its bounds 2 and 2",
        ),
        (
            {
                **schema_of(v={"$ref": "#/$defs/a"}),
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}},
            },
            "schema.properties.v.$ref.$ref.anyOf.1.$ref: leads back",
        ),
        ({"type": "object", "allOf": [{"$ref": "#"}]}, "schema.allOf.0.$ref: leads back to itself"),
        ({"type": "object", "not": {"$ref": "#"}}, "schema.not.$ref: leads back to itself"),
        (schema_of(v={"$ref": "#"}), "schema.properties.v.$ref: requires itself again and again"),
        (
            schema_of(v={"anyOf": [schema_of(x={"$ref": "#"}), schema_of(y={"$ref": "#"})]}),
            "schema.properties.v.anyOf.0.properties.x.$ref: requires itself again and again",
        ),
        (
            schema_of(v={"type": "array", "items": {"$ref": "#/properties/v"}, "minItems": 1}),
            "schema.properties.v.items.$ref: requires itself again and again",
        ),
        (
            {"type": "object", "const": {}, "properties": {"a": {"$ref": "#/const"}}},
            "schema.properties.a.$ref: '#/const'",
        ),
        ({"type": "object", "$dynamicRef": "#"}, "schema.$dynamicRef: is not supported"),
        (nested(20), "schema.properties.a.properties.a.properties.a.…: is nested deeper than 32 levels"),
        (nested(100_000), "schema.properties.a.properties.a.properties.a.…: is nested deeper than 32 levels"),
        (schema_of(v={"const": float("nan")}), "schema.properties.v.const: nan is not a number in JSON"),
        (schema_of(v={"maximum": float("inf")}), "schema.properties.v.maximum: inf is not a number in JSON"),
        (schema_of(v={"const": 16**5000}), "schema.properties.v.const: is an integer of more than 64 bits"),
        (schema_of(v={"const": "\ud800"}), r"schema.properties.v.const: '\ud800' has half of a character"),
        (schema_of(**{"\ud800": {}}), r"schema.properties: '\ud800' has half of a character"),
        (schema_of(v={"default": date(2025, 1, 1)}), "schema.properties.v.default: is a date"),
        (schema_of(v={"const": {1: 2}}), "schema.properties.v.const: the key 1 is no string"),
        (schema_of(v={"enum": list(range(1001))}), "schema.properties.v.enum: at most 1000 values"),
        (schema_of(v={"const": "x" * 100_000}), "schema: is 100"),
        (
            schema_of(**{f"v{number}": {"type": "string", "maxLength": 1000} for number in range(300)}),
            "schema.properties.v105: the grammar grows too large here",
        ),
        (
            schema_of(**{f"v{number}": {} for number in range(1000)}),
            "schema: has more than 1000 schemas in it",
        ),
        (
            {
                **schema_of(v={"$ref": "#/$defs/d0"}),
                "$defs": {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(900)} | {"d900": {}},
            },
            "schema.properties.v.$ref.$ref.$ref.$ref.…: leads through more than 64 keywords and references",
        ),
        (schema_of(v={"pattern": "a" * 201}), "schema.properties.v.pattern: is 201 characters long"),
        (schema_of(v={"pattern": "(" * 2000 + ")" * 2000}), "schema.properties.v.pattern: is 4000 characters long"),
        (schema_of(v={"pattern": "a{4294967296}"}), "schema.properties.v.pattern: 'a{4294967296}' is not a regular"),
        (schema_of(v={"pattern": "("}), "schema.properties.v.pattern: '(' is not a 'regex'"),
        (
            {"type": "object", "patternProperties": {"^(a+)+$": {}}},
            "schema.patternProperties: '^(a+)+$' could take very long",
        ),
    ],
)
def test_a_schema_that_cannot_be_kept_is_named_with_its_place(schema: object, message: str) -> None:
    found = check_schema(schema)

    assert found is not None
    assert found.startswith(message)


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$",
        "^(a*)*$",
        "^(a|aa)+$",
        "^(?:a|b)*$",
        "^((ab)?c){2,}$",
        "^(a?){30}b",
        "^a*a*a*a*b",
        "a*a*b",
        r"^(?P<x>\d{1,9}){9}",
        "^([^]x]+)*$",
    ],
)
def test_a_pattern_that_could_take_very_long_is_refused(pattern: str) -> None:
    found = check_schema(schema_of(v={"type": "string", "pattern": pattern}))

    assert found is not None
    assert found.startswith(f"schema.properties.v.pattern: {pattern!r} could take very long to match")


@pytest.mark.parametrize(
    "pattern",
    [
        "^P-[0-9]+$",
        "^[A-Z]{2,4}-[0-9]{1,5}(/[a-z])?$",
        r"^(\d{1,3}\.){3}\d{1,3}$",
        "^(on|off)$",
        r"^\(a+\)+$",
        "^[(a+)]+$",
        "[0-9]+",
        "^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$",
        r"^[a-z]+@[a-z.]+$",
        "^(?i:ok)*?$",
        "^(ab)+$",
        "^[[a]--b&&c]$",
    ],
)
def test_a_pattern_that_is_quick_to_match_is_taken(pattern: str) -> None:
    assert check_schema(schema_of(v={"type": "string", "pattern": pattern})) is None


def test_the_largest_grammars_that_are_taken_are_quick_to_open(open_llama: Callable[..., LlamaEngine]) -> None:
    llama = open_llama()._llama
    largest = [
        schema_of(**{f"v{number}": {"type": "string", "maxLength": 1000} for number in range(180)}),
        schema_of(**{f"v{number}": {"enum": [f"{value}" for value in range(1000)]} for number in range(11)}),
        schema_of(v={"const": "x" * 99_000}),
        nested(14),
    ]
    for schema in largest:
        assert check_schema(schema) is None
        began = perf_counter()
        llama.grammar(to_gbnf(schema)).close()
        assert perf_counter() - began < 1.0


def test_validation_never_fetches_a_reference() -> None:
    checks = validator(schema_of(a={"$ref": "https://example.org/s"}))

    with pytest.raises(Exception, match="Unresolvable"):
        checks.validate({"a": 1})
