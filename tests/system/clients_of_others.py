"""MQTT.js, Node-RED and Prometheus against the agent, by `python -m rigs.clients`; not collected by `make test`."""

import json
import os
import shlex
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rigs.deploy.fleet import Broker
from tests.examples.test_examples import EXAMPLES, LABELS, pump_triage
from tests.helpers.boards.trees import load
from tests.helpers.client import Client
from tests.helpers.processes import EDGE_AGENT, AgentProcess, free_port, wait_until
from tests.helpers.site import StartSite
from tests.test_monitoring import EXPORTER, FOLDER, METRICS, NUMBERS, RULES, at, expressions, health

NODE = Path(os.environ.get("EDGE_AGENT_NODE", "build/node"))


def test_mqtt_js_gets_its_answer(start_site: StartSite, protocol: str) -> None:
    site = start_site(protocol)
    version = protocol[0] if protocol == "5" else "4"
    script = Path(__file__).with_name("mqtt_js_client.mjs")
    arguments = [str(NODE), str(site.port), version, site.request("triage"), "edgeai/v1/reply/js", "bearing fault"]
    done = subprocess.run(["node", str(script), *arguments], capture_output=True, check=True, timeout=60)
    heard = json.loads(done.stdout)
    assert heard["reply"]["output"] == "bearing fault"
    assert heard["reply"]["id"] == f"js-{version}"
    assert heard["correlation"] == ("js-5" if protocol == "5" else None)


PASSWORDS = {"press-04": "of the board", "lathe-01": "of another", "monitoring": "of Prometheus"}


@contextmanager
def program(*command: str | Path, output: Path | str = os.devnull, **environment: str) -> Iterator[None]:
    with Path(output).open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_node_red_shows_the_label_and_marks_an_answer(tmp_path: Path) -> None:
    log = tmp_path / "node-red.log"
    with pump_triage(tmp_path) as port:
        flow = (EXAMPLES / "node-red" / "pump-triage.json").read_text("utf-8").replace('"1883"', f'"{port}"')
        (tmp_path / "flow.json").write_text(flow, encoding="utf-8")
        red_port = free_port()
        red = ("node", NODE / "node_modules/node-red/red.js", "--userDir", tmp_path, "--port", str(red_port))
        with program(*red, tmp_path / "flow.json", output=log):
            wait_until(
                lambda: any(f"[debug:label] {label}" in log.read_text("utf-8") for label in LABELS), "a label", 60
            )
            # What a click on the buttons does.
            for button, told in (("ask", "id: 'check-1'"), ("wrong", "answer: 'Cavitation'")):
                with urllib.request.urlopen(f"http://127.0.0.1:{red_port}/inject/{button}", b"", timeout=5) as done:
                    assert done.status == 200
                wait_until(lambda told=told: told in log.read_text("utf-8"), told, 20)


def test_node_red_asks_over_http(tmp_path: Path) -> None:
    log, web_log = tmp_path / "node-red.log", tmp_path / "web.log"
    web_port, red_port = free_port(), free_port()
    with pump_triage(tmp_path) as port:
        bus = ("--host", "127.0.0.1", "--port", str(port), "--site", "hall1", "--data", tmp_path)
        flow = (EXAMPLES / "node-red" / "ask-over-http.json").read_text("utf-8")
        flow = flow.replace(":8780", f":{web_port}").replace("machine-triage", "pump-triage")
        (tmp_path / "flow.json").write_text(flow, encoding="utf-8")
        red = ("node", NODE / "node_modules/node-red/red.js", "--userDir", tmp_path, "--port", str(red_port))
        with (
            program(*EDGE_AGENT, "web", *bus, "--listen", f"127.0.0.1:{web_port}", output=web_log),
            program(*red, tmp_path / "flow.json", output=log),
        ):
            wait_until(lambda: "board1" in get(f"http://127.0.0.1:{web_port}/api/v1/changes"), "the board", 30)
            wait_until(lambda: "Started flows" in log.read_text("utf-8"), "Node-RED", 60)
            with urllib.request.urlopen(f"http://127.0.0.1:{red_port}/inject/reading", b"", timeout=5) as done:
                assert done.status == 200
            wait_until(
                lambda: any(f"[debug:label] {label}" in log.read_text("utf-8") for label in LABELS), "a label", 20
            )


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@contextmanager
def prometheus(folder: Path, *changes: tuple[str, str]) -> Iterator[tuple[Broker, int, int]]:
    """A broker with TLS and passwords, and the ports of the exporter and Prometheus, by the files that we ship.

    `changes` are shorter times in those files. Scrapes and alerts come every half second.
    """
    exporter_port, port = free_port(), free_port()
    broker = Broker(folder / "broker", PASSWORDS)
    places = [("/etc/prometheus/mqtt-exporter.yaml", f"{folder}/exporter.yaml"), (":9641", f":{exporter_port}")]
    places += [("/etc/prometheus/edge-agent-ca.pem", f"{folder}/broker/ca.pem"), ("10s", "500ms"), *changes]
    places += [("its-password", PASSWORDS["monitoring"]), ("broker.example:8883", f"localhost:{broker.port}")]
    texts = {"exporter.yaml": EXPORTER, "edge-agent.rules.yml": RULES}
    texts |= {
        name: (FOLDER / name).read_text("utf-8") for name in ("prometheus.yml", "prometheus-mqtt-exporter.default")
    }
    for name, text in texts.items():
        for old, new in places:
            text = text.replace(old, new)  # noqa: PLW2901
        (folder / name).write_text(text, "utf-8")
    lines = (folder / "prometheus-mqtt-exporter.default").read_text("utf-8").splitlines()
    environment = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    arguments = [*shlex.split(environment.pop("ARGS").strip('"')), "-listen-port", str(exporter_port)]
    options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    with (
        broker,
        program("prometheus-mqtt-exporter", *arguments, **environment),
        program("prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"),
    ):
        yield broker, exporter_port, port


def query(port: int, expression: str) -> list[dict[str, Any]]:
    expression = expression.replace("$site", ".*").replace("$device", ".*")
    answer = get(f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    if not answer:
        return []
    document = json.loads(answer)
    assert document["status"] == "success", document
    return document["data"]["result"]  # type: ignore[no-any-return]


def test_prometheus_finds_the_values_of_state_and_health(tmp_path: Path) -> None:
    with prometheus(tmp_path) as (broker, _, port), ExitStack() as stack:
        document = health()
        client = Client(broker.port, "5", ("lathe-01", PASSWORDS["lathe-01"]), tmp_path / "broker/ca.pem")
        stack.callback(client.close)
        client.publish("edgeai/v1/hall2/lathe-01/state", {"state": "online"}, retain=True)
        client.publish("edgeai/v1/hall2/lathe-01/health", document, retain=True)
        wait_until(lambda: query(port, "edge_agent_thermal_soc_c"), "the first sample", 30)
        for name, path in METRICS:
            value = at({**document, "state": "online"}, path)
            wanted = NUMBERS.get(value, value) if isinstance(value, str) else value
            reason = f'{{reason="{path.split(".")[1]}"}}' if name == "edge_agent_severity" else ""
            found = query(port, name + reason)
            assert [float(sample["value"][1]) for sample in found] == ([] if wanted is None else [wanted]), path
        (sample,) = query(port, "edge_agent_overall")
        assert {"site": "hall2", "device": "lathe-01"}.items() <= sample["metric"].items()

        document["thermal"]["throttled_now"], document["governor"]["level"] = True, "hot"
        client.publish("edgeai/v1/hall2/lathe-01/health", document, retain=True)
        wait_until(lambda: query(port, "edge_agent_governor_level == 2"), "words are numbers", 20)
        assert query(port, "edge_agent_thermal_throttled_now == 1")
        for expression in expressions():
            query(port, expression)


def test_alerts_fire_for_a_board_on_a_weak_supply_that_is_then_cut_off(tmp_path: Path) -> None:
    load("pi5-undervoltage").write(tmp_path / "board")
    (tmp_path / "password").write_text(PASSWORDS["press-04"], "utf-8")
    shorter = (("timeout: 30s", "timeout: 3s"), ("for: 1m", "for: 1s"), ("for: 30s", "for: 1s"))
    with prometheus(tmp_path, *shorter) as (broker, exporter_port, port), ExitStack() as stack:
        (tmp_path / "config.toml").write_text(
            f"""
            state_dir = "state"
            [device]
            site = "hall1"
            id = "press-04"
            [mqtt]
            host = "localhost"
            port = {broker.port}
            username = "press-04"
            password_file = "password"
            tls = {{ ca_file = "broker/ca.pem" }}
            [models.default]
            path = "echo:"
            [board]
            root = "board"
            [health]
            interval_s = 1
            """,
            "utf-8",
        )
        agent = AgentProcess(tmp_path / "config.toml")
        stack.callback(agent.stop)

        def fires(alert: str) -> list[dict[str, Any]]:
            return query(port, f'ALERTS{{alertname="{alert}",device="press-04",site="hall1",alertstate="firing"}}')

        wait_until(lambda: fires("EdgeAgentCritical"), "the alarm is an alert", 60)
        assert {one["metric"]["reason"] for one in fires("EdgeAgentCritical")} == {"undervoltage"}
        assert not fires("EdgeAgentOffline")
        assert '/health"' in (metrics := get(f"http://127.0.0.1:{exporter_port}/metrics"))
        assert not [line for line in metrics.splitlines() if line.startswith("edge_agent_") and "/info" in line]
        agent.process.kill()
        wait_until(lambda: fires("EdgeAgentOffline"), "the lost board is an alert", 60)
        assert not fires("EdgeAgentCritical")
        assert not fires("EdgeAgentStale")
