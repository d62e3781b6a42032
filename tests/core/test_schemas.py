from datetime import date
from typing import Any

import pytest

from edge_agent.core.schemas import check_schema, validator


def schema_of(**properties: Any) -> dict[str, Any]:
    """An object that requires each of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        nested(15),
        schema_of(v={"type": "string", "pattern": "^P-[0-9]+$"}),
        schema_of(v={"$ref": "#/$defs/a~1b"}) | {"$defs": {"a/b": {"type": "null"}}},
        {"type": "object", "properties": {"$ref": {"type": "string"}}},
    ],
)
def test_a_schema_within_bounds_is_accepted(schema: object) -> None:
    assert check_schema(schema) is None


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
        (nested(20), "schema.properties.a.properties.a.properties.a.…: is nested deeper than 32 levels"),
        (nested(100_000), "schema.properties.a.properties.a.properties.a.…: is nested deeper than 32 levels"),
        (schema_of(v={"const": float("nan")}), "schema: is not JSON: Out of range float"),
        (schema_of(v={"const": 16**5000}), "schema: is not JSON: Exceeds the limit"),
        (schema_of(v={"const": "\ud800"}), "schema: is not JSON: 'utf-8' codec can't encode"),
        (schema_of(v={"default": date(2025, 1, 1)}), "schema: is not JSON: Object of type date"),
        (schema_of(v={"const": "x" * 100_000}), "schema: is 100"),
        (schema_of(v={"pattern": "("}), "schema.properties.v.pattern: '(' is not a 'regex'"),
        (schema_of(v={"pattern": "a{4294967296}"}), "schema: has a pattern that is not a regular expression"),
        (schema_of(v={"pattern": "(" * 2000 + ")" * 2000}), "schema: has a pattern that is not a regular expression"),
    ],
)
def test_a_schema_that_no_task_can_use_is_refused_with_its_place(schema: object, message: str) -> None:
    found = check_schema(schema)
    assert found is not None
    assert found.startswith(message)


def test_validation_never_fetches_a_reference() -> None:
    checks = validator(schema_of(a={"$ref": "https://example.org/s"}))
    with pytest.raises(Exception, match="Unresolvable"):
        checks.validate({"a": 1})
