"""MQTT.js and Prometheus against the agent, which `python -m rigs.clients` runs; `make test` does not collect this."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.tools.demo.broker import free_port
from tests.helpers.client import Client
from tests.helpers.processes import Mosquitto, wait_until
from tests.helpers.site import Site
from tests.test_monitoring import EXPORTER, FOLDER, METRICS, NUMBERS, at, expressions, health


def test_mqtt_js_gets_its_answer(start_site: Callable[..., Site], protocol: str) -> None:
    site = start_site(protocol)
    version = protocol[0] if protocol == "5" else "4"
    script = Path(__file__).with_name("mqtt_js_client.mjs")
    arguments = [
        os.environ["EDGE_AGENT_MQTT_JS"],
        str(site.port),
        version,
        site.request("triage"),
        "edgeai/v1/reply/js",
        "bearing fault",
    ]
    done = subprocess.run(["node", str(script), *arguments], capture_output=True, check=True, timeout=60)
    heard = json.loads(done.stdout)
    assert heard["reply"]["output"] == "bearing fault"
    assert heard["reply"]["id"] == f"js-{version}"
    assert heard["correlation"] == ("js-5" if protocol == "5" else None)


@contextmanager
def program(*command: str | Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def query(port: int, expression: str) -> list[dict[str, Any]]:
    expression = expression.replace("$site", ".*").replace("$device", ".*")
    answer = get(f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    if not answer:
        return []
    document = json.loads(answer)
    assert document["status"] == "success", document
    return document["data"]["result"]  # type: ignore[no-any-return]


def test_prometheus_finds_the_values_of_health(tmp_path: Path) -> None:
    broker_port, exporter_port, prometheus_port = free_port(), free_port(), free_port()
    (tmp_path / "exporter.yaml").write_text(EXPORTER.replace(":1883", f":{broker_port}"), encoding="utf-8")
    text = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace(":9641", f":{exporter_port}").replace("scrape_interval: 10s", "scrape_interval: 500ms")
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    exporter = ("-config", tmp_path / "exporter.yaml", "-listen-port", str(exporter_port))
    prometheus = (
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{prometheus_port}",
    )
    with (
        Mosquitto(tmp_path, broker_port),
        program("prometheus-mqtt-exporter", *exporter, "-listen-address", "127.0.0.1"),
        program("prometheus", *prometheus),
    ):
        document = health()
        client = Client(broker_port, "5")
        client.publish("edgeai/v1/hall1/board1/health", document, retain=True)
        wait_until(lambda: query(prometheus_port, "edge_agent_thermal_soc_c"), "the first sample", 30)
        for name, path in METRICS.items():
            value = at(document, path)
            wanted = NUMBERS.get(value, value) if isinstance(value, str) else value
            found = query(prometheus_port, name)
            assert [float(sample["value"][1]) for sample in found] == ([] if wanted is None else [wanted]), name
        (sample,) = query(prometheus_port, "edge_agent_overall")
        assert {"site": "hall1", "device": "board1"}.items() <= sample["metric"].items()

        document["thermal"]["throttled_now"], document["governor"]["level"] = True, "hot"
        client.publish("edgeai/v1/hall1/board1/health", document, retain=True)
        wait_until(lambda: query(prometheus_port, "edge_agent_governor_level == 2"), "words are numbers", 20)
        assert query(prometheus_port, "edge_agent_thermal_throttled_now == 1")
        for expression in expressions():
            query(prometheus_port, expression)
        client.close()
