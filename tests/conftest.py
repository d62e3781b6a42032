"""Fixtures for every test: a broker, a bundle of the demonstration model, agents as processes, clients."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.demo.broker import free_port, start_broker
from edge_agent.demo.readings import checkpoint_folder
from tests.processes import AgentProcess, Mosquitto
from tests.client import Client

NO_MOSQUITTO = "needs the broker mosquitto: apt-get install mosquitto mosquitto-clients"


@pytest.fixture(autouse=True)
def _no_warnings_logged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A test that logs WARNING or worse fails, unless it is marked `expects_warning`."""
    yield
    if request.node.get_closest_marker("expects_warning"):
        return
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    logged = [r.getMessage() for r in records if r.levelno >= logging.WARNING]
    assert not logged, f"logged without being expected: {logged}"


@pytest.fixture(params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both MQTT versions, one after the other."""
    return str(request.param)


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """The real thing, for tests that only it can pass."""
    if shutil.which("mosquitto", path=Mosquitto.SEARCH_PATH) is None:
        pytest.skip(NO_MOSQUITTO)
    with Mosquitto(tmp_path_factory.mktemp("mosquitto"), free_port()) as broker:
        yield broker


@pytest.fixture(scope="session")
def broker_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """The port of a broker for an MQTT version: mosquitto where it is installed, else the embedded one."""
    if shutil.which("mosquitto", path=Mosquitto.SEARCH_PATH) is not None:
        with Mosquitto(tmp_path_factory.mktemp("mosquitto"), free_port()) as broker:
            yield lambda _protocol: broker.port
        return
    brokers = {
        version: start_broker(version, free_port(), tmp_path_factory.mktemp("rumqttd")) for version in ("5", "3.1.1")
    }
    yield lambda version: int(brokers[version].port)
    for embedded in brokers.values():
        embedded.stop()


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration model in BF16, made by our own converter."""
    return convert_demo_model(tmp_path_factory.mktemp("model"), "bf16")


def convert_demo_model(folder: Path, quantization: str) -> Path:
    bundle = folder / quantization
    command = [sys.executable, "-m", "edge_convert", str(checkpoint_folder()), "--out", str(bundle)]
    subprocess.run([*command, "--type", quantization, "--name", "pump-demo"], check=True)
    return bundle


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    """Starts `edge-agent run` with a configuration; every agent left running is stopped at the end of the test."""
    agents: list[AgentProcess] = []

    def start(config: str, *, name: str = "config") -> AgentProcess:
        path = tmp_path / f"{name}.toml"
        path.write_text(config, encoding="utf-8")
        agents.append(AgentProcess(path))
        return agents[-1]

    yield start
    for agent in agents:
        agent.stop()


@pytest.fixture
def connect(broker_port: Callable[[str], int]) -> Iterator[Callable[..., Client]]:
    """Connects a plain client to the broker."""
    clients: list[Client] = []

    def make(protocol: str, *, port: int | None = None) -> Client:
        clients.append(Client(port or broker_port(protocol), protocol))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
