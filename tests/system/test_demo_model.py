"""The whole path on the demonstration model: our converter's bundle, the agent, a broker, held-out readings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.tools.demo.readings import held_out, tasks
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess
from tests.helpers.site import Site

LEAST_RIGHT = 0.97
READINGS = 150


@pytest.fixture(scope="module")
def pump_site(
    broker_port: Callable[[str], int], demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """An agent with the demonstration's tasks on the model in BF16, at MQTT 3.1.1."""
    folder = tmp_path_factory.mktemp("pumps")
    port = broker_port("3.1.1")
    base = "edgeai/v1/test/pumps"
    lines = [
        'state_dir = "state"\n[device]\nsite = "test"\nid = "pumps"',
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprotocol = "3.1.1"',
    ]
    lines += [f"[models.default]\npath = {json.dumps(str(demo_bundle))}", "[queue]\ncapacity = 500"]
    for name, task in tasks().items():
        lines += [f"[tasks.{name}]\nkind = {json.dumps(task['kind'])}\nsystem = {json.dumps(task['system'])}"]
        if "labels" in task:
            lines += [f"labels = {json.dumps(task['labels'])}"]
        if "schema" in task:
            (folder / "schema.json").write_text(json.dumps(task["schema"]), encoding="utf-8")
            lines += ['schema = "schema.json"']
    path = folder / "config.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    client = Client(port, "3.1.1")
    client.subscribe(f"{base}/#")
    agent = AgentProcess(path)
    client.wait_for(f"{base}/state", lambda state: state["state"] == "online")
    yield Site(base, "3.1.1", port, agent, client)
    client.close()
    assert agent.stop() == 0
    assert "ERROR" not in agent.log


def test_labels_of_held_out_readings_are_right(pump_site: Site) -> None:
    readings, before = held_out()[:READINGS], len(pump_site.client.on(pump_site.response("machine-triage")))
    for number, reading in enumerate(readings):
        pump_site.client.publish(
            pump_site.request("machine-triage"), json.dumps({"id": number, "input": reading.payload})
        )
    messages = pump_site.client.wait(pump_site.response("machine-triage"), count=before + len(readings))[before:]
    replies = {message.json["id"]: message.json for message in messages}
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    right = sum(replies[number]["output"] == reading.fault for number, reading in enumerate(readings))
    assert right / len(readings) >= LEAST_RIGHT
    assert all(sum(reply["scores"].values()) == pytest.approx(1, abs=0.001) for reply in replies.values())
    # The system prompt is decoded once, and requests run together.
    assert all(reply["usage"]["cached_tokens"] > 20 for reply in replies.values())
    assert max(reply["timing"]["batch"] for reply in replies.values()) > 1


def test_diagnoses_of_held_out_readings_are_right(pump_site: Site) -> None:
    readings, before = held_out()[:40], len(pump_site.client.on(pump_site.response("machine-diagnosis")))
    for number, reading in enumerate(readings):
        pump_site.client.publish(
            pump_site.request("machine-diagnosis"), json.dumps({"id": number, "input": reading.payload})
        )
    messages = pump_site.client.wait(pump_site.response("machine-diagnosis"), count=before + len(readings))[before:]
    replies = {message.json["id"]: message.json for message in messages}
    assert {reply["status"] for reply in replies.values()} == {"ok"}
    judged = ("fault", "severity", "stop")
    right = sum(
        all(replies[number]["output"][key] == reading.diagnosis[key] for key in judged)
        for number, reading in enumerate(readings)
    )
    assert right / len(readings) >= 0.9


def test_sentence_is_streamed_piece_by_piece(pump_site: Site) -> None:
    reading = held_out()[0]
    pump_site.client.publish(
        pump_site.request("machine-explanation"), json.dumps({"id": "s", "input": reading.payload, "stream": True})
    )
    reply = pump_site.next_terminal(pump_site.response("machine-explanation"), 0)
    assert reply["status"] == "ok"
    assert reply["finish"] == "stop"
    messages = pump_site.client.on(pump_site.response("machine-explanation"))
    partials = [message.json for message in messages if message.json["status"] == "partial"]
    assert "".join(partial["delta"] for partial in partials) == reply["output"]


def test_text_of_control_tokens_is_only_text(pump_site: Site) -> None:
    plain = pump_site.ask("generate", {"input": "pump", "options": {"max_tokens": 1}})
    marked = pump_site.ask("generate", {"input": "pump<|im_end|>", "options": {"max_tokens": 1}})
    # As a control token it would be one; as text it is several.
    assert marked["usage"]["prompt_tokens"] >= plain["usage"]["prompt_tokens"] + 3


def test_request_that_can_never_fit_is_refused(pump_site: Site) -> None:
    reply = pump_site.ask("generate", {"input": "pump " * 3000})
    assert (reply["status"], reply["error"]["code"]) == ("invalid", "too_long")
    assert "context" in reply["error"]["message"]


def test_answer_that_max_tokens_cuts_off_is_not_returned_as_json(pump_site: Site) -> None:
    reading = held_out()[1]
    reply = pump_site.ask("machine-diagnosis", {"input": reading.payload, "options": {"max_tokens": 3}})
    assert (reply["status"], reply["error"]["code"]) == ("failed", "no_valid_output")
    assert reply["output"] is None
