"""JSON Schemas (2020-12) of what callers write and read.

`config` and `request` come from their models. The documents that the agent publishes are described by JSON files here,
with all that is always the same left out: a field is always there, unless `required` says otherwise.
"""

import json
from importlib.resources import files
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from edge_agent.core.config import Config
from edge_agent.core.envelope import Envelope
from edge_agent.core.kinds.registry import BUILT_IN_TASK

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(name: str) -> dict[str, Any]:
    match name:
        case "config":
            document = _config_schema()
        case "request":
            document = Envelope.model_json_schema(schema_generator=_Plain)
        case _:
            document = _with_required(json.loads(files(__package__).joinpath(f"{name}.json").read_text("utf-8")))
    return {"$schema": _DIALECT, **document, "title": f"edge-agent {name}"}


class _Plain(GenerateJsonSchema):
    """Leaves out what says nothing: titles that repeat a name, defaults of whole tables, and null as a default."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's interface
        return False

    def encode_default(self, dft: Any) -> Any:
        return None if isinstance(dft, BaseModel) else super().encode_default(dft)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        document = super().default_schema(schema)
        if document.get("default", ...) is None:
            del document["default"]
        return document


class _TomlSchema(_Plain):
    """Leaves out what has no default, because TOML has no null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _config_schema() -> dict[str, Any]:
    document = Config.model_json_schema(schema_generator=_TomlSchema)
    tables = document["properties"]
    # With the names that are known, editors offer them.
    model = tables["models"]["additionalProperties"]
    tables["models"] |= {"properties": {"default": model}, "required": ["default"], "additionalProperties": False}
    ((pattern, task),) = tables["tasks"].pop("patternProperties").items()
    built_in = {**document["$defs"]["GenerateTask"], "required": []}
    tables["tasks"] |= {
        "propertyNames": {"pattern": pattern},
        "properties": {BUILT_IN_TASK: built_in},
        "additionalProperties": task,
    }
    return document


def _with_required(schema: Any) -> Any:
    """Every object of the schema requires all its properties, unless it says which ones."""
    if isinstance(schema, list):
        return [_with_required(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _with_required(value) for key, value in schema.items()}
    if isinstance(inner.get("properties"), dict) and "type" in inner:
        inner.setdefault("required", list(inner["properties"]))
    return inner
