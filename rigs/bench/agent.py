"""An agent that is online behind the embedded broker, and clients that ask it over MQTT."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from edge_agent.core.pipe import ECHO_MODEL
from edge_agent.tools.demo.broker import free_port, start_embedded_broker
from rigs.bench.workload import EXTRACT_TOKENS, GENERATED_TOKENS, LABELS, SCHEMA, SYSTEM, Answer, Kind, Reading
from tests.helpers.client import Client
from tests.helpers.processes import EDGE_AGENT, AgentProcess
from tests.helpers.site import online, task_table

BASE = "edgeai/v1/bench/board"
START_S = 300.0
_ANSWER_S = 300.0


class UnexpectedReply(Exception):  # noqa: N818 - a reply, not an error of the program
    """A request got another terminal reply than `ok`, or none."""


class WaitingClient(Client):
    """Its `ask` waits for the reply with the request's id, in any number of threads; other messages are kept."""

    def __init__(self, port: int) -> None:
        self._ids = itertools.count()
        self._waiting: dict[str, Future[dict[str, Any]]] = {}
        super().__init__(port, "3.1.1")

    def _keep(self, message: paho.MQTTMessage) -> None:
        reply = json.loads(message.payload) if message.topic.endswith("/response") else {}
        waiting = self._waiting.pop(str(reply.get("id")), None)
        if waiting is not None:
            waiting.set_result(reply)
            return
        super()._keep(message)
        if message.topic == f"{BASE}/state" and json.loads(message.payload)["state"] in ("offline", "stopped"):
            for one in self._waiting.values():
                one.set_exception(UnexpectedReply("the agent ended"))

    def reply(self, task: str, value: Any) -> dict[str, Any]:
        """The terminal reply, also a refusal. Raises UnexpectedReply if the agent ends."""
        request_id = f"q{next(self._ids)}"
        waiting = self._waiting[request_id] = Future()
        self.send(f"{BASE}/infer/{task}/request", json.dumps({"id": request_id, "input": value}, ensure_ascii=False))
        return waiting.result(_ANSWER_S)

    def ask(self, task: str, value: Any) -> dict[str, Any]:
        """The terminal reply of an answer. Raises UnexpectedReply."""
        reply = self.reply(task, value)
        if reply["status"] != "ok":
            raise UnexpectedReply(f"{task} was answered {json.dumps(reply)}")
        return reply


class AgentSide:
    """An agent and its client; a Side of the comparison. Raises UnexpectedReply."""

    def __init__(self, client: WaitingClient, process: AgentProcess, name: str = "edge-agent") -> None:
        self.name = name
        self.client = client
        self.process = process
        self._text = process.config.read_text("utf-8")

    @property
    def pid(self) -> int:
        return self.process.process.pid

    def ask(self, kind: Kind, reading: Reading) -> Answer:
        reply = self.client.ask(task_name(kind), reading)
        usage, output = reply["usage"], reply["output"]
        return Answer(
            text=output if isinstance(output, str) else json.dumps(output, ensure_ascii=False),
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=usage["cached_tokens"],
            completion_tokens=usage["completion_tokens"],
            scores=reply["scores"],
            latency_ms=reply["timing"]["total_ms"],
        )

    def health(self) -> dict[str, Any]:
        return self.client.exchange(f"{BASE}/cmd/health", b"", f"{BASE}/health").json

    def repacked_mib(self) -> float:
        """The weights that are copied for the kernels of this machine."""
        return float(self.health()["worker"]["repacked_mb"] or 0) / 1.048576

    def add_task(self, table: str) -> None:
        """Replaces the task that was added before. Returns when the agent has it; its worker may not yet."""
        self.process.config.write_text(self._text + table, encoding="utf-8")
        topic = f"{BASE}/cmd/reload"
        result = self.client.exchange(topic, {"id": "reload"}, f"{topic}/result").json
        if result["status"] != "ok":
            raise UnexpectedReply(f"reload was answered {json.dumps(result)}")


@contextmanager
def running_agent(
    model: str | Path,
    folder: Path,
    tasks: str,
    engine: Mapping[str, int],
    *,
    program: Sequence[str] = EDGE_AGENT,
    name: str = "edge-agent",
) -> Iterator[AgentSide]:
    """An agent that is online. tasks: TOML at the end of its configuration. program: what starts it."""
    port = free_port()
    broker = start_embedded_broker("3.1.1", port, folder)
    path = str(model) if str(model).startswith(ECHO_MODEL) else str(Path(model).absolute())
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    config = folder / "config.toml"
    config.write_text(
        'state_dir = "state"\n[device]\nsite = "bench"\nid = "board"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprotocol = "3.1.1"\n'
        f"[models.default]\npath = {json.dumps(path)}\n"
        '[commands]\nallow = ["ping", "health", "reload"]\n[engine]\n'
        + "".join(f"{key} = {value}\n" for key, value in engine.items())
        + tasks,
        encoding="utf-8",
    )
    try:
        with closing(WaitingClient(port)) as client:
            client.subscribe(f"{BASE}/#")
            with online(config, client, BASE, program=program, timeout_s=START_S) as process:
                yield AgentSide(client, process, name)
    finally:
        broker.stop()


def task_name(kind: Kind) -> str:
    return f"pump-{kind}"


def workload_tasks(
    kinds: Iterable[Kind] = Kind,
    *,
    system: str = SYSTEM,
    template: str | None = None,
    generated_tokens: int = GENERATED_TOKENS,
) -> str:
    """One task for each kind, as TOML. Their deadline is long: only time is measured.

    template: of all of them; None = each kind's own.
    """
    fields: dict[Kind, dict[str, Any]] = {
        Kind.CLASSIFY: {"labels": list(LABELS)},
        Kind.EXTRACT: {"max_tokens": EXTRACT_TOKENS, "schema": "schema.json"},
        Kind.GENERATE: {"max_tokens": generated_tokens},
    }
    return "".join(
        task_table(
            task_name(kind),
            kind=kind,
            system=system,
            template=template or kind.template,
            deadline_ms=600_000,
            **fields[kind],
        )
        for kind in kinds
    )
