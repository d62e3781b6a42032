"""Fixtures for every test: a broker, a bundle of the demonstration model, agents as processes, clients."""

import fcntl
import gc
import logging
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from edge_agent.cli import main
from edge_agent.tools.demo.broker import start_embedded_broker
from tests.helpers.bundles import convert_demo_model, make_bundles
from tests.helpers.client import Client, Connect
from tests.helpers.processes import AgentProcess, BrokerPort, EdgeAgent, Ended, Mosquitto, StartAgent, free_port
from tests.helpers.site import DEVICES, Site, StartSite, running_site, site_config

# A process in the background of a shell ignores SIGINT, and every program started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads of llama.cpp spin while they wait for each other, which on cores that tests share only slows the others.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# Until all tests are collected, nearly everything stays. Looking for what does not would take half of the time.
gc.disable()

# HYPOTHESIS_PROFILE=thorough runs more examples. Machines that do other things meanwhile make any deadline meaningless.
settings.register_profile("short", max_examples=40, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

NO_MOSQUITTO = "needs the broker mosquitto: apt-get install mosquitto mosquitto-clients"


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"needs {program}: apt-get install {package}")


NEEDS_OPENSSL = needs("openssl", "openssl")
NEEDS_CLIENTS = needs("mosquitto_rr", "mosquitto-clients")


@pytest.fixture(autouse=True)
def _no_warnings_logged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A test that logs WARNING or worse fails, unless it is marked `expects_warning`."""
    yield
    if request.node.get_closest_marker("expects_warning"):
        return
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    logged = [r.getMessage() for r in records if r.levelno >= logging.WARNING]
    assert not logged, f"logged without being expected: {logged}"


@pytest.fixture(autouse=True)
def _psutil_reads_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes psutil read this machine again after a test that reads a board below another root."""
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/proc")


@pytest.fixture
def edge_agent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> EdgeAgent:
    """Runs a command in this process, as one of its own would take a second to begin. Signals stay the test's."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        try:
            with monkeypatch.context() as patch:
                patch.setattr("signal.signal", lambda *_: None)
                code = main([*map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module", params=["5", "3.1.1"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both MQTT versions, with one for all tests of a module, then the other for all of them."""
    return str(request.param)


@pytest.fixture
def require_mosquitto() -> None:
    """For tests that need a real mosquitto."""
    if not Mosquitto.is_installed():
        pytest.skip(NO_MOSQUITTO)


@pytest.fixture(scope="session")
def broker_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerPort]:
    """The port of a broker for an MQTT version: mosquitto where it is installed, else the embedded one."""
    if Mosquitto.is_installed():
        with Mosquitto(tmp_path_factory.mktemp("mosquitto"), free_port()) as broker:
            yield lambda _protocol: broker.port
        return
    folder = tmp_path_factory.mktemp("rumqttd")
    brokers = {version: start_embedded_broker(version, free_port(), folder) for version in ("5", "3.1.1")}
    yield lambda version: brokers[version].port
    for embedded in brokers.values():
        embedded.stop()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process of pytest-xdist fills by `make`; the others wait for it and only read it."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = folder.with_suffix(".draft")
            # Left by a process that failed.
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration model in BF16, made by our converter. Read-only, like the next fixtures."""
    return made_once(tmp_path_factory, "demo-model", lambda folder: convert_demo_model(folder, "bf16")) / "bf16"


@pytest.fixture(scope="session")
def model_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models_dir with bundles of the demonstration model, as tests/helpers/bundles.py names them."""
    return made_once(tmp_path_factory, "switch-bundles", make_bundles) / "models"


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
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
def connect(broker_port: BrokerPort) -> Iterator[Connect]:
    """Connects a plain client to the broker."""
    clients: list[Client] = []

    def make(protocol: str, *, port: int | None = None) -> Client:
        clients.append(Client(port or broker_port(protocol), protocol))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def start_site(start_agent: StartAgent, connect: Connect, broker_port: BrokerPort) -> StartSite:
    """Starts an agent of its own name and waits until it is online."""

    def start(
        protocol: str,
        *,
        model: str = "echo:",
        more: str = "",
        device: str | None = None,
        port: int | None = None,
        state: str = "state",
    ) -> Site:
        device = device or next(DEVICES)
        port = port or broker_port(protocol)
        base = f"edgeai/v1/test/{device}"
        client = connect(protocol, port=port)
        client.subscribe(f"{base}/#", "plant/#", "edgeai/v1/reply/#", "elsewhere/#")
        agent = start_agent(site_config(device, port, protocol, model, more, state=state), name=device)
        client.wait_for(f"{base}/state", lambda state: state["state"] == "online")
        return Site(base, protocol, port, agent, client)

    return start


@pytest.fixture(scope="module")
def agent_of_module(broker_port: BrokerPort, tmp_path_factory: pytest.TempPathFactory, protocol: str) -> Iterator[Site]:
    """One agent for many small questions, at each MQTT version; it must log no warning."""
    with running_site(tmp_path_factory.mktemp("agent"), broker_port(protocol), protocol) as site:
        yield site
    log = site.agent.log.splitlines()
    bad = [line for line in log if re.match(r"(\d\S+ )?(WARNING|ERROR)\b", line) or "Traceback" in line]
    assert not bad, bad


@pytest.fixture
def with_fresh_client(connect: Connect) -> Callable[[Site], Site]:
    """An agent that several tests share, with a client that has received nothing of earlier tests."""

    def renew(shared: Site) -> Site:
        client = connect(shared.protocol, port=shared.port)
        client.subscribe(f"{shared.base}/#", "plant/#", "edgeai/v1/reply/#", "elsewhere/#")
        client.hear_retained()
        return replace(shared, client=client)

    return renew


@pytest.fixture
def site(agent_of_module: Site, with_fresh_client: Callable[[Site], Site]) -> Site:
    """The module's agent."""
    return with_fresh_client(agent_of_module)


@pytest.fixture
def slow(slow_agent_of_module: Site, with_fresh_client: Callable[[Site], Site]) -> Site:
    """The slow agent that the module makes, once it is idle."""
    site = with_fresh_client(slow_agent_of_module)
    site.wait_until_active(0)
    return site


# Files of half a minute and more. In the order of folders, most of them would begin late, and end alone.
LONG = (
    "web/test_screens.py",
    "system/test_watch.py",
    "contract/test_late_subscriber.py",
    "contract/test_model_switch.py",
    "docs/test_models.py",
    "system/test_workers.py",
    "system/test_demo.py",
    "web/test_answers_over_mqtt.py",
    "web/test_command.py",
)


def pytest_collection_finish() -> None:
    """The collector need not look again at what stays."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, in this order."""
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get("/".join(item.path.parts[-2:]), len(LONG)))
