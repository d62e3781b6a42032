"""The kind `extract`: a JSON object that validates against a task's schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from edge_agent.core.envelope import Options
from edge_agent.core.kinds.fields import FieldsTask
from edge_agent.core.kinds.task import SampledTask
from edge_agent.core.pipe import Finished, Plan, SchemaPlan
from edge_agent.core.schemas import check_schema, validator
from edge_agent.core.strict_json import compact_json, is_near
from edge_agent.core.wording import field_name, shown

# For the user to edit.
_SAMPLE = {
    "type": "object",
    "required": ["fault", "stop"],
    "properties": {"fault": {"enum": ["none", "bearing", "cavitation"]}, "stop": {"type": "boolean"}},
}


class ExtractTask(FieldsTask, SampledTask):
    """Answers with a JSON object that validates against your schema."""

    kind: Literal["extract"]
    """What an answer is."""
    # In a configuration file it may also be the name of a file; see `file_keys`.
    output_schema: Annotated[
        dict[str, Any], WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string", "format": "path"}]})
    ] = Field(alias="schema")
    """A JSON Schema (2020-12) of an object, with local `$ref` only: a table, or a JSON file's name."""

    definition_fields = (*SampledTask.definition_fields, "output_schema")
    info_fields = (*SampledTask.info_fields, "output_schema")
    canary_part = "values"
    file_keys = ("schema",)
    init_keys = {"schema": _SAMPLE}  # noqa: RUF012 - a ClassVar of TaskBase
    init_system = "Fill in the fields from the reading."

    @classmethod
    def value_faults(cls, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        schema = table.get("schema")
        if isinstance(schema, dict) and (fault := check_schema(schema)):
            yield "schema", fault

    def plan(self, options: Options) -> Plan:  # noqa: ARG002 - nothing but its schema ends an object
        return SchemaPlan(schema=self.output_schema, required=self.required)

    def output_of(self, event: Finished) -> Any:
        return json.loads(event.text or "")  # the worker has validated it

    def answer_fault(self, answer: object) -> str | None:
        return _schema_fault(self.output_schema, answer)

    def row_fault(self, answer: object) -> str | None:
        if not isinstance(answer, dict) or not answer:
            return f"answer: should be an object with the fields that count (got {shown(answer)})"
        # Fields that are not listed do not count, so they are not missing either.
        return _schema_fault({**self.output_schema, "required": []}, answer)

    def is_right(self, output: object, answer: object) -> bool:
        """All fields that the row lists are the same; other fields do not count."""
        if not isinstance(answer, dict) or not isinstance(output, dict):
            return False
        return all(name in output and is_near(output[name], value) for name, value in answer.items())

    def canonical_answer(self, answer: Any) -> Any:
        """The answer with its keys in the order in which the board writes them."""
        return _in_order(answer, self.output_schema)

    def sample_answers(self) -> list[str]:
        return [compact_json(self.output_schema)]


def _schema_fault(schema: Mapping[str, Any], answer: object) -> str | None:
    error = next(validator(schema).iter_errors(answer), None)
    return None if error is None else f"{field_name(('answer', *error.absolute_path))}: {error.message}"


def _in_order(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_in_order(item, _part(schema, "items")) for item in value]
    if not isinstance(value, dict):
        return value
    properties = _part(schema, "properties")
    keys = dict.fromkeys([*(key for key in properties if key in value), *value])
    return {key: _in_order(value[key], _part(properties, key)) for key in keys}


def _part(schema: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = schema.get(key)
    return found if isinstance(found, Mapping) else {}
