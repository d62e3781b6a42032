"""An agent that is online and a client that listens to it."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.tools.demo.readings import tasks
from tests.helpers.client import Client, Message
from tests.helpers.processes import EDGE_AGENT, WAIT_S, AgentProcess, free_port, wait_until

TASKS = """
[tasks.triage]
kind = "classify"
system = "Name the condition."
labels = ["normal", "bearing fault", "cavitation"]
[tasks.diagnosis]
kind = "extract"
[tasks.diagnosis.schema]
type = "object"
required = ["stop"]
properties = { stop = { type = "boolean" } }
[tasks.vibration]
kind = "classify"
labels = ["normal", "bearing fault"]
template = "Vibration is {{ input.vibration }} mm/s: {{ input.note | default('no note') }}"
subscribe = ["plant/+/vibration"]
publish = "plant/{1}/triage"
"""
# The old worker goes before the new one comes. Without `enabled` the reserve keeps nothing else back.
SHORT_OF_MEMORY = "[governor]\nenabled = false\nmemory_reserve_mb = 900_000\n"


StartSite = Callable[..., "Site"]
DEVICES = (f"board{number}" for number in itertools.count(1))


@dataclass
class Site:
    """An agent that is online, and a client that receives all its messages."""

    base: str
    protocol: str
    port: int
    agent: AgentProcess
    client: Client

    def request(self, task: str) -> str:
        return f"{self.base}/infer/{task}/request"

    def response(self, task: str) -> str:
        return f"{self.base}/infer/{task}/response"

    def ask(self, task: str, payload: Any, **arguments: Any) -> dict[str, Any]:
        """Publishes one request and returns its terminal reply on the default topic."""
        before = len(self.terminal(self.response(task)))
        self.client.publish(self.request(task), payload, **arguments)
        return self.next_terminal(self.response(task), before)

    def next_terminal(self, topic: str, before: int) -> dict[str, Any]:
        with self.client._arrived:
            assert self.client._arrived.wait_for(lambda: len(self.terminal(topic)) > before, 30), f"no reply on {topic}"
        return self.terminal(topic)[before].json

    def wait_until_active(self, count: int) -> None:
        """Requests and commands travel on two connections, so only health shows which requests have started."""

        def active() -> object:
            health = self.client.exchange(f"{self.base}/cmd/health", b"", f"{self.base}/health")
            return health.json["inference"]["active"]

        wait_until(lambda: active() == count, f"{count} requests are active at once")

    def command(self, operation: str, fields: Any = None, **arguments: Any) -> dict[str, Any]:
        """The result of a command. `fields` may also be a payload."""
        topic = f"{self.base}/cmd/{operation}"
        return self.client.exchange(topic, {} if fields is None else fields, f"{topic}/result", **arguments).json

    def terminal(self, topic: str) -> list[Message]:
        return [message for message in self.client.on(topic) if message.json["status"] != "partial"]


@contextmanager
def online(
    config: Path, client: Client, base: str, *, program: Sequence[str] = EDGE_AGENT, timeout_s: float = WAIT_S
) -> Iterator[AgentProcess]:
    """An agent that is online while the context is entered; the client hears of its state."""
    agent = AgentProcess(config, program)
    try:
        client.wait_for(f"{base}/state", lambda state: state["state"] == "online", timeout_s)
        yield agent
    finally:
        agent.stop()


@contextmanager
def running_site(
    folder: Path, port: int, protocol: str, *, model: str = "echo:", more: str = "", timeout_s: float = 60.0
) -> Iterator[Site]:
    """An agent of its own name that is online while the context is entered."""
    device = next(DEVICES)
    base = f"edgeai/v1/test/{device}"
    config = written_config(folder, model, more, device=device, port=port, protocol=protocol)
    with closing(Client(port, protocol)) as client:
        client.subscribe(f"{base}/#")
        with online(config, client, base, timeout_s=timeout_s) as agent:
            yield Site(base, protocol, port, agent, client)
    assert agent.process.returncode == 0


def site_config(device: str, port: int, protocol: str, model: str, more: str = "", *, state: str = "state") -> str:
    return (
        f'models_dir = "models"\nstate_dir = "{state}"\n[device]\nsite = "test"\nid = "{device}"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprotocol = "{protocol}"\n'
        f'[models.default]\npath = "{model}"\n{TASKS}{more}'
    )


def written_config(
    folder: Path, model: str | Path, more: str = "", *, device: str = "b", port: int | None = None, protocol: str = "5"
) -> Path:
    """That configuration as a file; without a port it names one where there is no broker."""
    path = folder / "config.toml"
    path.write_text(site_config(device, port or free_port(), protocol, str(model), more), encoding="utf-8")
    return path


def task_table(name: str, **fields: Any) -> str:
    """The task as TOML, whose strings, numbers and arrays are written like JSON's."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())
    return f"[tasks.{name}]\n{''.join(lines)}"


def demo_tables(folder: Path, **more: dict[str, Any]) -> str:
    """The demonstration's tasks, whose schema is written to the folder, and more of them."""
    given = tasks()
    (folder / "schema.json").write_text(json.dumps(given["machine-diagnosis"]["schema"]), encoding="utf-8")
    given["machine-diagnosis"]["schema"] = "schema.json"
    return "".join(task_table(name, **task) for name, task in {**given, **more}.items())
