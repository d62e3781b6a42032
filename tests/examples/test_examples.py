"""The files of examples/ load, and their clients are answered by an agent that runs examples/pump-triage.toml."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import jinja2
import pytest

from edge_agent.loader import config_hints, load_config
from edge_agent.signals.signal_table import new_table
from tests.conftest import NO_MOSQUITTO, needs
from tests.helpers.client import Client
from tests.helpers.processes import EDGE_AGENT, Mosquitto, free_port, wait_until
from tests.helpers.site import online

EXAMPLES = Path(__file__).parents[2] / "examples"
BASE = "edgeai/v1/hall1/board1"
LABELS = ("Normal", "Bearing fault", "Cavitation", "Overload")
READING = '{"vibration_mm_s":7.9,"temperature_c":81.5}'
# PubSubClient's buffer holds a whole packet, with its fixed header, topic with length, and payload.
ESP32_BUFFER = 256


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("**/*.toml")), ids=lambda path: path.stem)
def test_configurations_load_without_hints_but_for_the_model(path: Path) -> None:
    assert not list(config_hints(load_config(path)))


def test_the_values_at_the_head_of_the_signals_example_make_a_reading() -> None:
    path = EXAMPLES / "pump-signals.toml"
    signals = new_table("pump", load_config(path).signals["pump"])
    messages = re.findall(r"^#   (\S+) +(.+)$", path.read_text("utf-8"), flags=re.MULTILINE)
    for topic, payload in messages:
        assert not list(signals.receive(topic, payload.encode(), is_retained=False, now=0.0))
    reading = next(signals.advance(600.0))
    last = {name: figures["last"] for name, figures in reading.input.items()}
    assert (reading.machine, last) == (
        "pump-1",
        {"vibration_mm_s": 7.9, "temperature_c": 81.5, "current_a": 11.2, "running": 1.0},
    )


@contextmanager
def pump_triage(folder: Path) -> Iterator[int]:
    """The port of a mosquitto, with an agent that runs examples/pump-triage.toml on the echo model."""
    text = (EXAMPLES / "pump-triage.toml").read_text("utf-8")
    text = re.sub(r'^path = ".*?"', 'path = "echo:"', text, flags=re.MULTILINE)
    text = re.sub(r"^min_score.*\n", "", text, flags=re.MULTILINE)
    port = free_port()
    text = text.replace('host = "localhost"', f'host = "127.0.0.1"\nport = {port}')
    (folder / "config.toml").write_text(f'state_dir = "{folder}/state"\n{text}', encoding="utf-8")
    with Mosquitto(folder, port), closing(Client(port, "5")) as client:
        client.subscribe(f"{BASE}/#")
        with online(folder / "config.toml", client, BASE):
            yield port


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if not Mosquitto.is_installed():
        pytest.skip(NO_MOSQUITTO)
    with pump_triage(tmp_path_factory.mktemp("pump-triage")) as port:
        yield port


@pytest.mark.parametrize("version", [(), ("3.1.1",)], ids=["5", "3.1.1"])
def test_the_python_client_gets_the_label_and_the_pieces_of_a_text(port: int, version: tuple[str, ...]) -> None:
    def ask(*words: str) -> list[str]:
        command = [sys.executable, str(EXAMPLES / "python" / "ask.py"), f"127.0.0.1:{port}", BASE, *words, *version]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.splitlines()

    (answer,) = ask("pump-triage", READING)
    # Only a bare payload gets a bare output.
    assert (json.loads(answer)["output"] if version else answer) in LABELS
    *pieces, whole = map(json.loads, ask("generate", '{"input":"a b c","stream":true}'))
    assert "".join(piece["delta"] for piece in pieces) == whole["output"]
    (reply,) = map(json.loads, ask("generate", "42"))
    assert reply["status"] == "ok"
    assert len(pieces) > 1


def test_the_sketch_publishes_readings_and_prints_the_answers(port: int, tmp_path: Path) -> None:
    sketch, program = EXAMPLES / "esp32" / "pump_sensor" / "pump_sensor.ino", tmp_path / "sketch"
    main = "\nint main() { setup(); for (;;) loop(); }\n"
    headers = Path(__file__).parent / "arduino"
    compiler = ["c++", "-x", "c++", "-Wall", "-Werror", "-I", str(headers), "-o", str(program), "-"]
    subprocess.run(compiler, input=sketch.read_text("utf-8") + main, text=True, check=True)
    running = subprocess.Popen([program], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.stdin is not None
    assert running.stdout is not None
    with running, closing(Client(port, "3.1.1")) as client:
        subscribed = running.stdout.readline().split()
        _, topic, payload = running.stdout.readline().strip().split(" ", 2)
        assert subscribed == ["subscribe", "plant/pump-1/triage"]
        client.subscribe(subscribed[1])
        client.publish(topic, payload, qos=0)
        answer = client.wait(subscribed[1])[0].payload
        assert len(answer) + len(subscribed[1]) + 7 <= ESP32_BUFFER
        running.stdin.write(answer.decode() + "\n")
        running.stdin.close()
        assert running.stdout.readline().strip() == answer.decode()
        running.kill()  # it would end by itself at the next reading, 10 s later


def nodes_of_node_red(name: str = "pump-triage") -> dict[str, dict[str, Any]]:
    return {node["id"]: node for node in json.loads((EXAMPLES / "node-red" / f"{name}.json").read_text("utf-8"))}


def test_the_flow_of_node_red_is_wired() -> None:
    """Node-RED itself runs it in `python -m rigs.clients`."""
    nodes = nodes_of_node_red()
    assert {target for node in nodes.values() for wires in node.get("wires", []) for target in wires} <= set(nodes)
    topics = {node["topic"] for node in nodes.values() if node["type"].startswith("mqtt ")}
    ends = ("error", "request", "response", "feedback", "feedback/result")
    assert topics == {"plant/pump-1/reading", "plant/+/triage", *(f"{BASE}/infer/pump-triage/{end}" for end in ends)}


def test_the_buttons_of_node_red_ask_and_mark_the_answer(port: int) -> None:
    nodes = nodes_of_node_red()
    with closing(Client(port, "5")) as client:
        client.subscribe(f"{BASE}/infer/#")
        for button, listener in (("ask", "reply"), ("wrong", "result")):
            ((target,),) = nodes[button]["wires"]
            client.publish(nodes[target]["topic"], nodes[button]["payload"])
            told = client.wait(nodes[listener]["topic"])[-1].json
            assert (told["id"], told["status"]) == ("check-1", "ok")
        assert told["data"]["answer"] == "Cavitation"


@pytest.fixture
def web(port: int, tmp_path: Path) -> Iterator[str]:
    """The address of a page that shows the board."""
    bus = ("--host", "127.0.0.1", "--port", str(port), "--site", "hall1")
    command = [*EDGE_AGENT, "web", *bus, "--listen", "127.0.0.1:0", "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1].rstrip("/")
            wait_until(
                lambda: "board1" in httpx.get(f"{address}/api/v1/changes").json().get("order", []),
                "the page shows the board",
            )
            yield address
        finally:
            process.terminate()
    assert process.returncode == 0


@needs("curl", "curl")
def test_curl_asks_over_http(web: str) -> None:
    def ask(task: str) -> subprocess.CompletedProcess[str]:
        script = EXAMPLES / "curl" / "ask.sh"
        return subprocess.run(
            [script, "board1", task, READING],
            env={**os.environ, "WEB": web},
            capture_output=True,
            text=True,
            check=False,
        )

    assert json.loads(ask("pump-triage").stdout)["output"] in LABELS
    refused = ask("nosuch")
    assert refused.returncode
    assert json.loads(refused.stdout)["error"]["code"] == "unknown_task"


def test_node_red_asks_over_http(web: str) -> None:
    nodes = nodes_of_node_red("ask-over-http")
    assert {target for node in nodes.values() for wires in node.get("wires", []) for target in wires} <= set(nodes)
    ask = nodes["ask"]
    headers = {header["keyValue"]: header["valueValue"] for header in ask["headers"]}
    url = ask["url"].replace("http://localhost:8780", web).replace("machine-triage", "pump-triage")
    reply = httpx.request(ask["method"], url, content=nodes["reading"]["payload"], headers=headers)
    assert reply.status_code == 200
    assert reply.json()["output"] in LABELS


def test_home_assistant_would_mark_the_last_answer(port: int) -> None:
    text = re.findall(r"```yaml\n(.*?)```", (EXAMPLES / "README.md").read_text("utf-8"), flags=re.DOTALL)[0]
    (payload,) = re.findall(r"payload: >-\n(.*)", text, flags=re.DOTALL)
    (listens, publishes) = re.findall(r"topic: (\S+)", text)
    (options,) = re.findall(r"options: \[(.*)\]", text)
    assert tuple(options.split(", ")) == LABELS
    with closing(Client(port, "5")) as client:
        client.subscribe(f"{BASE}/infer/#")
        client.publish(f"{BASE}/infer/pump-triage/request", {"id": "ha-1", "input": READING})
        reply = client.wait(listens)[-1].json
        states = {"sensor.pump_triage_id": str(reply["id"]), "input_select.pump_triage_label": "Overload"}
        client.publish(publishes, jinja2.Template(payload).render(states=states.__getitem__))
        assert client.wait(f"{publishes}/result")[-1].json["data"]["answer"] == "Overload"
