"""The agent as a process, asked over MQTT through the embedded broker."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import paho.mqtt.client as paho

from edge_agent.tools.demo.broker import free_port, start_broker
from rigs.bench.sizes import CLIENTS, CONTEXT_TOKENS, THREADS
from rigs.bench.workload import (
    EXTRACT_TOKENS,
    GENERATED_TOKENS,
    SCHEMA,
    SYSTEM,
    Answer,
    Kind,
    Reading,
)
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess

BASE = "edgeai/v1/bench/board"
_START_S = 300.0
_ANSWER_S = 300.0
# An agent that has ended answers nothing more.
_LOOK_S = 5.0
ENGINE = {
    "threads": THREADS,
    "prefill_threads": THREADS,
    "max_active": CLIENTS,
    "context_tokens": CONTEXT_TOKENS,
}


class NotOkError(Exception):
    """A request got another terminal reply than `ok`."""


class Asker(Client):
    """A client whose every request waits for its own reply, told by its id; nothing that came is kept."""

    def __init__(self, port: int) -> None:
        self._ids = itertools.count()
        self._waiting: dict[str, SimpleQueue[dict[str, Any]]] = {}
        super().__init__(port, "3.1.1")

    def _on_message(self, client: object, userdata: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/response"):
            reply = json.loads(message.payload)
            self._waiting.pop(reply["id"]).put(reply)
        else:
            super()._on_message(client, userdata, message)

    def ask(self, task: str, value: Any) -> dict[str, Any]:
        """The terminal reply. Raises NotOkError."""
        request_id = f"q{next(self._ids)}"
        inbox = self._waiting[request_id] = SimpleQueue()
        # Not `publish`: that one waits for the broker's acknowledgement, which a sensor need not do.
        self._client.publish(
            f"{BASE}/infer/{task}/request", json.dumps({"id": request_id, "input": value}, ensure_ascii=False), qos=1
        )
        reply = self._next(inbox, task)
        if reply["status"] != "ok":
            raise NotOkError(f"{task} was answered {json.dumps(reply)}")
        return reply

    def _next(self, inbox: SimpleQueue[dict[str, Any]], task: str) -> dict[str, Any]:
        for _ in range(int(_ANSWER_S / _LOOK_S)):
            try:
                return inbox.get(timeout=_LOOK_S)
            except Empty:
                state = self.on(f"{BASE}/state")[-1].json["state"]
                if state != "online":
                    raise NotOkError(f"{task} was not answered: the agent is {state}") from None
        raise NotOkError(f"{task} was not answered within {_ANSWER_S} s")


class AgentSide:
    """A Side. Raises NotOkError."""

    name = "edge-agent"

    def __init__(self, client: Asker, process: AgentProcess, config: Path) -> None:
        self.client = client
        self.process = process
        self._config = config
        self._text = config.read_text(encoding="utf-8")

    def ask(self, kind: Kind, reading: Reading) -> Answer:
        reply = self.client.ask(task_name(kind), reading)
        usage, output = reply["usage"], reply["output"]
        return Answer(
            text=output if isinstance(output, str) else json.dumps(output, ensure_ascii=False),
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=usage["cached_tokens"],
            completion_tokens=usage["completion_tokens"],
            scores=reply["scores"],
        )

    def health(self) -> dict[str, Any]:
        topic = f"{BASE}/health"
        heard = len(self.client.on(topic))
        self.client.publish(f"{BASE}/cmd/health", b"")
        return self.client.wait(topic, count=heard + 1)[-1].json

    def add_task(self, table: str) -> None:
        """In the place of one added before. Returns when the agent has it; its worker may still be at it."""
        self._config.write_text(self._text + table, encoding="utf-8")
        topic = f"{BASE}/cmd/reload/result"
        heard = len(self.client.on(topic))
        self.client.publish(f"{BASE}/cmd/reload", b"")
        result = self.client.wait(topic, count=heard + 1)[-1].json
        if result["status"] != "ok":
            raise NotOkError(f"reload was answered {json.dumps(result)}")


@contextmanager
def running_agent(model: Path, folder: Path, tasks: str, engine: dict[str, int]) -> Iterator[AgentSide]:
    """An agent that is online, with the embedded broker between it and the client."""
    port = free_port()
    broker = start_broker("3.1.1", port, folder)
    config = folder / "config.toml"
    text = (
        'state_dir = "state"\n[device]\nsite = "bench"\nid = "board"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprotocol = "3.1.1"\n'
        f"[models.default]\npath = {json.dumps(str(model.absolute()))}\n"
        '[commands]\nallow = ["ping", "health", "reload"]\n[queue]\ndefault_deadline_ms = 600000\n[engine]\n'
    )
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    text += "".join(f"{key} = {value}\n" for key, value in engine.items()) + tasks
    config.write_text(text, encoding="utf-8")
    client = Asker(port)
    client.subscribe(f"{BASE}/#")
    process = AgentProcess(config)
    try:
        client.wait_for(f"{BASE}/state", lambda state: state["state"] == "online", _START_S)
        yield AgentSide(client, process, config)
    finally:
        client.close()
        process.stop()
        broker.stop()


def task_name(kind: Kind) -> str:
    return f"pump-{kind}"


def workload_tasks() -> str:
    """One task for each kind, as TOML."""
    fields: dict[Kind, dict[str, Any]] = {
        Kind.CLASSIFY: {"kind": "classify", "labels": list(Kind.CLASSIFY.labels)},
        Kind.CLASSIFY_SHARED: {"kind": "classify", "labels": list(Kind.CLASSIFY_SHARED.labels)},
        Kind.EXTRACT: {"kind": "extract", "max_tokens": EXTRACT_TOKENS, "schema": "schema.json"},
        Kind.GENERATE: {"kind": "generate", "max_tokens": GENERATED_TOKENS},
    }
    return "".join(
        task_table(task_name(kind), system=SYSTEM, template=kind.template, **more) for kind, more in fields.items()
    )


def task_table(name: str, **fields: Any) -> str:
    """As TOML, whose strings, numbers and arrays of them are written like JSON's."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())
    return f"[tasks.{name}]\n{''.join(lines)}"
