"""What an agent publishes is what `edge-agent schema` says, field by field."""

from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from edge_agent.tools.schema.schema import json_schema
from tests.helpers.boards.trees import load
from tests.helpers.site import StartSite


def closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name; callers have to accept those."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **inner} if "required" in inner else inner


def faults(name: str, document: dict[str, Any]) -> list[str]:
    return [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(closed(json_schema(name))).iter_errors(document)
    ]


def test_every_document_is_as_its_schema_says(start_site: StartSite, demo_bundle: Path, tmp_path: Path) -> None:
    load("pi5-throttled").write(tmp_path / "board")
    board = f'[board]\nroot = "{tmp_path / "board"}"\n[health]\ninterval_s = 0.5\n'
    site = start_site("5", model=str(demo_bundle), more=board)
    # The board is so hot that only urgent requests run.
    replies = [
        site.ask("triage", {"input": {"vibration": 7.9}, "id": 7, "priority": 0}),
        site.ask("diagnosis", {"input": {"vibration": 7.9}, "priority": 0}),
        site.ask("generate", {"input": "hello", "options": {"max_tokens": 3}, "priority": 0}),
        site.ask("triage", "x"),
        site.ask("nonsense", "x"),
    ]
    assert [reply["status"] for reply in replies] == ["ok", "ok", "ok", "busy", "invalid"]
    health = site.client.wait_for(
        f"{site.base}/health",
        lambda health: health["thermal"]["soc_c"] is not None and health["inference"]["latency_ms"]["p99"] is not None,
    ).json
    assert health["governor"]["limits"]
    assert (health["thermal"]["soc_c"], health["thermal"]["causes"]) == (84.4, ["thermal", "cap"])
    assert health["sensor_errors"] == {}
    info = site.client.on(f"{site.base}/info")[-1].json
    documents = {"health": [health], "info": [info], "reply": replies}
    assert not {name: found for name in documents for one in documents[name] if (found := faults(name, one))}
    # The check notices what is new and what is gone, at any depth.
    assert faults("info", {**info, "new": 1})
    assert faults("health", {**health, "cpu": {}})
    assert faults("reply", {**replies[0], "usage": {**replies[0]["usage"], "new": None}})
