import json
from typing import Any

import pytest

from edge_agent.core.bounded import run_in_child
from edge_agent.engine.answer.schema_check import warnings_of
from tests.core.test_schemas import schema_of
from tests.engine.runs import SCHEMA


@pytest.mark.parametrize(
    ("schema", "warning"),
    [
        (schema_of(v={"type": "array", "uniqueItems": True}), 'while writing: Unimplemented keys: ["uniqueItems'),
        (schema_of(v={"type": "string", "pattern": "^(?=a)"}), "written freely and validated: regex parse error"),
        (
            schema_of(v={"type": "string", "minLength": 5, "maxLength": 2}),
            "written freely and validated: Unsatisfiable",
        ),
        ({"type": "object", "allOf": [{"$ref": "#"}]}, "written freely and validated: circular references"),
    ],
)
def test_what_answers_are_not_held_to_is_named(schema: dict[str, Any], warning: str) -> None:
    (found,) = warnings_of(schema)
    assert warning in found


def test_the_check_runs_as_a_process_of_its_own() -> None:
    schemas = {"good": SCHEMA, "not": schema_of(v={"not": {"const": 1}})}
    found = json.loads(run_in_child("edge_agent.engine.answer.schema_check", json.dumps(schemas).encode()))
    assert found["good"] == []
    assert len(found["not"]) == 1
