"""The recipes for Prometheus, Telegraf and Grafana ask for what health tells, and real programs get it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.board.reading import BoardReading, Thermal
from edge_agent.core.topics import Topics, matches
from edge_agent.requests.statistics import RequestFacts
from edge_agent.tools.demo.broker import free_port
from tests.helpers.client import Client
from tests.helpers.facts import health as facts_of_health
from tests.helpers.processes import Mosquitto, wait_until

FOLDER = Path(__file__).parents[1] / "ansible/files/monitoring"
EXPORTER = (FOLDER / "prometheus-mqtt-exporter.yaml").read_text(encoding="utf-8")
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
TELEGRAF = tomllib.loads((FOLDER / "telegraf.conf").read_text(encoding="utf-8"))
(SUBSCRIPTION,) = TELEGRAF["inputs"]["mqtt_consumer"]
# Name and path in the health document.
METRICS = dict(re.findall(r"- prom_name: (\S+)\n    mqtt_name: (\S+)\n", EXPORTER))
# Words of health as the exporter has them.
NUMBERS = {"ok": 0, "degraded": 1, "critical": 2, "normal": 0}
READING = BoardReading(thermal=Thermal(soc_c=61.5, limit_c=80.0), disk_free_mb=9000.0)


def health() -> dict[str, Any]:
    facts = {"reading": READING, "requests": RequestFacts(capacity=64, depth=7)}
    document: dict[str, Any] = json.loads(json.dumps(facts_of_health(**facts)))
    return document


def at(document: dict[str, Any], path: str) -> Any:
    """What stands at a path; raises KeyError if there is no such field."""
    value: Any = document
    for name in path.split("."):
        value = value[name]
    return value


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_is_named_after_a_field_of_health() -> None:
    document = health()
    assert len(METRICS) == EXPORTER.count("prom_name")
    for name, path in METRICS.items():
        at(document, path)
        assert name == f"edge_agent_{path.replace('.', '_')}"


def test_the_dashboard_shows_every_metric_that_exists_and_no_other() -> None:
    variables = json.dumps(DASHBOARD["templating"])
    asked = set(re.findall(r"edge_agent_\w+", "\n".join(expressions()) + variables))
    assert asked == set(METRICS)
    assert all('{site=~"$site",device=~"$device"}' in expression for expression in expressions())


def test_telegraf_subscribes_to_the_same_topics_and_knows_which_fields_are_texts() -> None:
    topic = Topics("edgeai/v1", "hall1", "board1").health
    assert all(matches(topic_filter, topic) for topic_filter in SUBSCRIPTION["topics"])
    assert f"topic_path: {SUBSCRIPTION['topics'][0]}\n" in EXPORTER
    paths = {path.replace(".", "_"): path for path in METRICS.values()}
    no_numbers = {name for name, path in paths.items() if not isinstance(at(health(), path), int | float)}
    unknown_here = {name for name in no_numbers if at(health(), paths[name]) is None}
    asked = set(SUBSCRIPTION["json_string_fields"])
    assert no_numbers - unknown_here <= asked
    assert asked <= no_numbers


@contextmanager
def program(*command: str | Path) -> Iterator[None]:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs the program {command[0]}: apt-get install {command[0]}")
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


@pytest.mark.mosquitto
@pytest.mark.usefixtures("require_mosquitto")
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
