"""An agent that is online behind the embedded broker, and clients that ask it over MQTT."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edge_agent.core.pipe import ECHO_MODEL
from edge_agent.tools.demo.broker import start_embedded_broker
from rigs.bench.workload import EXTRACT_TOKENS, GENERATED_TOKENS, LABELS, SCHEMA, SYSTEM, Answer, Kind, Reading
from rigs.load.asking import ANSWER_S, Load
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, free_port
from tests.helpers.site import online, task_table

BASE = "edgeai/v1/bench/board"
START_S = 300.0
# Memory beyond the weights, with a vocabulary of 152,000 tokens, a context of 4096 and 8 requests at once. On a CPU
# with AVX-512 the agent takes 32 MiB, the renderer 19 and the worker 160, 48 of them for the KV cache: 211. A task with
# a schema adds 41, most of it the vocabulary as a tree. Weights in AMX's layout count as weights, as in any other.
MAX_MIB, MAX_MIB_EXTRACT = 220.0, 260.0


class UnexpectedReply(Exception):  # noqa: N818 - a reply, not an error of the program
    """A request got another terminal reply than `ok`."""


class AgentSide:
    """An agent and its clients; a Side of the comparison."""

    def __init__(self, client: Client, load: Load, process: AgentProcess, name: str = "edge-agent") -> None:
        self.name = name
        self.client, self.load = client, load
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.process.pid

    def reply(self, task: str, value: Any) -> dict[str, Any]:
        """The terminal reply of an answer. Raises UnexpectedReply."""
        answer = self.load.ask(f"{BASE}/infer/{task}/request", value).result(ANSWER_S)
        if answer.status != "ok":
            raise UnexpectedReply(f"{task} was answered {json.dumps(answer.reply)}")
        return answer.reply

    def ask(self, kind: Kind, reading: Reading) -> Answer:
        reply = self.reply(task_name(kind), reading)
        usage, output = reply["usage"], reply["output"]
        return Answer(
            text=output if isinstance(output, str) else json.dumps(output, ensure_ascii=False),
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=usage["cached_tokens"],
            completion_tokens=usage["completion_tokens"],
            scores=reply["scores"],
            latency_ms=reply["timing"]["total_ms"],
        )

    def repacked_mib(self) -> float:
        """The weights that are copied for the kernels of this machine."""
        health = self.client.exchange(f"{BASE}/cmd/health", b"", f"{BASE}/health").json
        return float(health["worker"]["repacked_mb"] or 0) / 1.048576


@contextmanager
def running_agent(
    model: str | Path,
    folder: Path,
    tasks: str,
    engine: Mapping[str, int],
    *,
    python: str = sys.executable,
    name: str = "edge-agent",
) -> Iterator[AgentSide]:
    """An agent that is online; `tasks` is TOML at the end of its configuration."""
    port = free_port()
    broker = start_embedded_broker("3.1.1", port, folder)
    path = str(model) if str(model).startswith(ECHO_MODEL) else str(Path(model).absolute())
    (folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    config = folder / "config.toml"
    config.write_text(
        f'state_dir = "state"\nmodels_dir = {json.dumps(str(Path(path).parent))}\n'
        '[device]\nsite = "bench"\nid = "board"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprotocol = "3.1.1"\n'
        f"[models.default]\npath = {json.dumps(path)}\n"
        "[engine]\n" + "".join(f"{key} = {value}\n" for key, value in engine.items()) + tasks,
        encoding="utf-8",
    )
    try:
        with closing(Client(port, "3.1.1")) as client, closing(Load(port, "3.1.1")) as load:
            client.subscribe(f"{BASE}/state", f"{BASE}/health")
            with online(config, client, BASE, program=(python, "-P", "-m", "edge_agent"), timeout_s=START_S) as process:
                yield AgentSide(client, load, process, name)
    finally:
        broker.stop()


def task_name(kind: Kind) -> str:
    return f"pump-{kind}"


def workload_tasks(kinds: Iterable[Kind] = Kind) -> str:
    """One task for each kind, as TOML. Their deadline is long because only time is measured."""
    fields: dict[Kind, dict[str, Any]] = {
        Kind.CLASSIFY: {"labels": list(LABELS)},
        Kind.EXTRACT: {"max_tokens": EXTRACT_TOKENS, "schema": "schema.json"},
        Kind.GENERATE: {"max_tokens": GENERATED_TOKENS},
    }
    return "".join(
        task_table(
            task_name(kind), kind=kind, system=SYSTEM, template=kind.template, deadline_ms=600_000, **fields[kind]
        )
        for kind in kinds
    )
