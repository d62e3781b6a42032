"""The commands of docs/quickstart.md and the README are answered, by the demonstration and on a broker of one's own."""

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.core.topics import Topics
from tests.conftest import NEEDS_CLIENTS
from tests.docs.demonstration import running_demonstration
from tests.docs.pages import sample, samples, section
from tests.helpers.client import Client
from tests.helpers.processes import Mosquitto, free_port
from tests.helpers.site import online
from tests.helpers.support import REPLY_FIELDS

OWN = "Your own broker and model"


def run(script: str, port: int, folder: Path) -> str:
    """What a sample prints; samples use the default port."""
    for clients, flag in (("mosquitto_(?:rr|sub|pub)", "-p"), ("edge-agent ask", "--port")):
        script = re.sub(rf"\b({clients})\b", rf"\1 {flag} {port}", script)
    environment = {**os.environ, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
    return subprocess.check_output(["bash", "-ec", script], cwd=folder, env=environment, text=True, timeout=60)


def test_allowed_reply_topics_are_named_beside_the_first_requests() -> None:
    text = section("quickstart", "One request")
    assert all(f"`{topic}`" in text for topic in Topics("<root>", "<site>", "<device>").default_reply_topics)
    assert "reply_topic_refused" in text


@pytest.mark.parametrize("name", ["README", "quickstart"])
def test_reply_samples_have_the_fields_of_a_reply(name: str) -> None:
    assert all(set(json.loads(text)) == REPLY_FIELDS for text in samples(name, "json"))


@NEEDS_CLIENTS
def test_requests_are_answered_by_the_demonstration(tmp_path: Path) -> None:
    with running_demonstration(tmp_path) as (port, _):
        requests = [text for text in samples("quickstart", "sh", "One request") if "mosquitto_" in text]
        assert len(requests) == 2
        for text in (sample("README", "sh", "mosquitto_rr"), *requests):
            reply = json.loads(run(text, port, tmp_path))
            assert reply["status"] == "ok", reply


def test_init_writes_the_configuration_that_is_shown(tmp_path: Path) -> None:
    run(sample("quickstart", "sh", "edge-agent init"), 0, tmp_path)
    written = tomllib.loads((tmp_path / "config.toml").read_text("utf-8"))
    (shown,) = map(tomllib.loads, samples("quickstart", "toml"))
    edited = {name: shown["tasks"]["pump-triage"].pop(name) for name in ("system", "template")}
    assert edited["system"] != written["tasks"]["pump-triage"].pop("system")
    assert written == shown


@pytest.fixture(scope="module")
def own_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A mosquitto with the configuration of the page."""
    port = free_port()
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), port)
    (text,) = samples("quickstart", "conf")
    broker._config.write_text(text.replace("listener 1883", f"listener {port}"), encoding="utf-8")
    with broker:
        yield port


@pytest.mark.mosquitto
@NEEDS_CLIENTS
def test_an_own_task_is_answered_on_an_own_broker(own_port: int, demo_bundle: Path, tmp_path: Path) -> None:
    (text,) = samples("quickstart", "toml")
    config = text.replace('"localhost"\n', f'"localhost"\nport = {own_port}\n')
    config = re.sub(r'^path = "[^"]*"', f'path = "{demo_bundle}"', config, flags=re.MULTILINE)
    (tmp_path / "config.toml").write_text(config, encoding="utf-8")
    assert "good" in run("edge-agent doctor --config-only config.toml", own_port, tmp_path)
    client = Client(own_port, "5")
    client.subscribe("edgeai/v1/#")
    asking = [
        text for text in samples("quickstart", "sh", OWN) if re.search(r"mosquitto_(rr|pub)|edge-agent ask", text)
    ]
    assert len(asking) == 4
    with online(tmp_path / "config.toml", client, "edgeai/v1/hall1/board1"):
        for text in asking:
            _, topic, payload = run(text, own_port, tmp_path).rpartition("plant/pump-7/triage ")
            reply = json.loads(payload)
            assert reply["status"] == "ok", reply
            assert reply["output"] in reply["scores"]
            assert bool(topic) == ("plant/" in text)
    client.close()


def test_the_sample_for_paho_turns_nagles_algorithm_off() -> None:
    class Paho:
        on_socket_open: Callable[..., None]

    client = Paho()
    exec(samples("quickstart", "python")[0], {"client": client})
    with socket.socket() as connection:
        client.on_socket_open(client, None, connection)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
