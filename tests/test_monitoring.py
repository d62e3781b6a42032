"""The recipes for Prometheus, Telegraf and Grafana ask for what health tells; `rigs.clients` runs Prometheus itself."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from edge_agent.board.reading import BoardReading, Thermal
from edge_agent.core.topics import Topics, matches
from edge_agent.requests.statistics import RequestFacts
from tests.helpers.facts import health as facts_of_health

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
