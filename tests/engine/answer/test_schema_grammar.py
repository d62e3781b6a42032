from __future__ import annotations

import json
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest

from edge_agent.core.schemas import validator
from edge_agent.engine.answer.schema_grammar import to_gbnf
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
        gbnf = to_gbnf(schema)
        for text in valid:
            validator(schema).validate(json.loads(text))
            assert takes(gbnf, text), f"{text} of {schema}"
        for text in invalid:
            assert not takes(gbnf, text), f"{text} of {schema}"


def test_the_largest_grammars_that_are_taken_are_quick_to_open(open_llama: Callable[..., LlamaEngine]) -> None:
    llama = open_llama()._llama
    largest = [
        schema_of(**{f"v{number}": {"type": "string", "maxLength": 1000} for number in range(180)}),
        schema_of(**{f"v{number}": {"enum": [f"{value}" for value in range(1000)]} for number in range(11)}),
        schema_of(v={"const": "x" * 99_000}),
        nested(14),
    ]
    for schema in largest:
        began = perf_counter()
        llama.grammar(to_gbnf(schema)).close()
        assert perf_counter() - began < 1.0
