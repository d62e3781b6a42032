"""One agent on the deterministic engine, for tests of what callers see."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.client import Client, Message
from tests.processes import AgentProcess

_NUMBERS = itertools.count(1)

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


@dataclass
class Site:
    """An agent that is online, and a client that listens to everything it says."""

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
        """Publishes one request and gives its terminal reply on the default topic (the tests' own requests are few)."""
        before = len(self.terminal(self.response(task)))
        self.client.publish(self.request(task), payload, **arguments)
        return self.next_terminal(self.response(task), before)

    def next_terminal(self, topic: str, before: int) -> dict[str, Any]:
        with self.client._arrived:
            assert self.client._arrived.wait_for(lambda: len(self.terminal(topic)) > before, 30), f"no reply on {topic}"
        return self.terminal(topic)[before].json

    def terminal(self, topic: str) -> list[Message]:
        return [message for message in self.client.on(topic) if message.json["status"] != "partial"]


@pytest.fixture
def start_site(
    start_agent: Callable[..., AgentProcess], connect: Callable[..., Client], broker_port: Callable[[str], int]
) -> Callable[..., Site]:
    """Starts an agent of its own name and waits until it is online."""

    def start(
        protocol: str, *, model: str = "echo:", more: str = "", device: str | None = None, port: int | None = None
    ) -> Site:
        device = device or f"board{next(_NUMBERS)}"
        port = port or broker_port(protocol)
        base = f"edgeai/v1/test/{device}"
        client = connect(protocol, port=port)
        client.subscribe(f"{base}/#", "plant/#", "edgeai/v1/reply/#", "elsewhere/#")
        agent = start_agent(site_config(device, port, protocol, model, more), name=device)
        client.wait_for(f"{base}/state", lambda state: state["state"] == "online")
        return Site(base, protocol, port, agent, client)

    return start


@pytest.fixture
def site(start_site: Callable[..., Site], protocol: str) -> Iterator[Site]:
    """An agent at each MQTT version; it must have nothing to warn of."""
    site = start_site(protocol)
    yield site
    assert site.agent.stop() == 0
    bad = [line for line in site.agent.log.splitlines() if line.startswith(("WARNING", "ERROR")) or "Traceback" in line]
    assert not bad, bad



@pytest.fixture(scope="module")
def shared_site(broker_port: Callable[[str], int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One agent for many small questions, at MQTT 3.1.1."""
    device, port = f"board{next(_NUMBERS)}", broker_port("3.1.1")
    base = f"edgeai/v1/test/{device}"
    client = Client(port, "3.1.1")
    client.subscribe(f"{base}/#")
    path = tmp_path_factory.mktemp("agent") / "config.toml"
    path.write_text(site_config(device, port, "3.1.1", "echo:"), encoding="utf-8")
    agent = AgentProcess(path)
    client.wait_for(f"{base}/state", lambda state: state["state"] == "online")
    yield Site(base, "3.1.1", port, agent, client)
    client.close()
    assert agent.stop() == 0


def site_config(device: str, port: int, protocol: str, model: str, more: str = "") -> str:
    return (
        f'[device]\nsite = "test"\nid = "{device}"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprotocol = "{protocol}"\n'
        f'[models.default]\npath = "{model}"\n{TASKS}{more}'
    )
