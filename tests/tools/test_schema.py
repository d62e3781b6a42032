"""`edge-agent schema`: schemas that validators accept and that agree with the loader and the parser of requests."""

import tomllib
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from edge_agent.core.config import Config
from edge_agent.core.envelope import Envelope
from edge_agent.core.kinds.registry import KINDS
from edge_agent.tools.schema import SCHEMAS
from tests.helpers.processes import EdgeAgent
from tests.helpers.support import CONFIG, TASKS


@pytest.fixture
def schema(request: pytest.FixtureRequest, edge_agent: EdgeAgent) -> dict[str, Any]:
    found: dict[str, Any] = edge_agent("schema", request.param).document
    return found


@pytest.mark.parametrize("schema", SCHEMAS, indirect=True)
def test_it_is_a_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_an_unknown_name_is_a_usage_error(edge_agent: EdgeAgent) -> None:
    done = edge_agent("schema", "nonsense")
    assert (done.returncode, "config" in done.stderr) == (64, True)


@pytest.mark.parametrize("schema", ["config", "request"], indirect=True)
def test_every_key_is_described(schema: dict[str, Any]) -> None:
    tables = [schema, *schema["$defs"].values()]
    keys = {f"{table['title']}.{key}": value for table in tables for key, value in table["properties"].items()}
    described = {key for key, value in keys.items() if "description" in value}
    assert {key for key in keys.keys() - described if "$ref" not in keys[key]} <= {
        "edge-agent config.models", "edge-agent config.tasks"
    }  # fmt: skip
    assert all("description" in table for table in tables[1:])


@pytest.mark.parametrize("schema", ["config"], indirect=True)
@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        (TASKS, True),
        ('[mqtt]\nhost = ["a", "b"]\n[mqtt.tls]\n[tasks.generate]\nmax_tokens = 7\n', True),
        ('[mqtt]\nhost = "a"\nport = 70000\n', False),
        ("[mqtt]\nhosts = []\n", False),
        ("[mqtt]\nhost = []\n", False),
        ('[models.other]\npath = "x"\n', False),
        ('[tasks.t]\nkind = "classify"\n', False),
        ('[tasks.t]\nkind = "generate"\nlabels = ["a", "b"]\n', False),
        ('[tasks."a b"]\nkind = "generate"\n', False),
        ("[tasks.t]\nmax_tokens = 7\n", False),
        ('[log]\nlevel = "LOUD"\n', False),
    ],
)
def test_it_agrees_with_the_loader(schema: dict[str, Any], text: str, *, is_good: bool) -> None:
    document = tomllib.loads(CONFIG + text)
    assert Draft202012Validator(schema).is_valid(document) == is_good
    for name, task in document.get("tasks", {}).items():
        if name == "generate":
            task["kind"] = "generate"
    try:
        Config.model_validate(document)
    except ValidationError:
        assert not is_good
    else:
        assert is_good


@pytest.mark.parametrize("schema", ["config"], indirect=True)
def test_the_schema_of_an_extract_task_may_be_a_files_name(schema: dict[str, Any]) -> None:
    document = tomllib.loads(CONFIG + '[tasks.t]\nkind = "extract"\nschema = "schema.json"\n')
    Draft202012Validator(schema).validate(document)
    assert {f"{kind.title()}Task" for kind in KINDS} < schema["$defs"].keys()


@pytest.mark.parametrize("schema", ["request"], indirect=True)
@pytest.mark.parametrize(
    ("request_", "is_good"),
    [
        ({"input": "x", "id": 7, "priority": None, "options": {"stop": "a"}}, True),
        ({"input": {"hz": 1}, "id": "a", "deadline_ms": 5, "options": {"stop": ["a"], "seed": None}}, True),
        ({"input": [1], "unknown": 1}, True),
        ({"input": "x", "ts": "2026-11-30T12:00:00Z"}, True),
        ({"input": "x", "ts": 1764504000}, True),
        ({"input": "x", "ts": True}, True),
        ({"id": 7}, False),
        ({"input": "x", "id": ""}, False),
        ({"input": "x", "deadline_ms": 0}, False),
        ({"input": "x", "options": {"max_tokens": 0}}, False),
        ({"input": "x", "options": {"unknown": 0}}, False),
    ],
)
def test_it_agrees_with_the_envelope(schema: dict[str, Any], request_: dict[str, Any], *, is_good: bool) -> None:
    assert Draft202012Validator(schema).is_valid(request_) == is_good
    try:
        Envelope.model_validate(request_)
    except ValidationError:
        assert not is_good
    else:
        assert is_good
