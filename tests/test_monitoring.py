"""The recipes for Prometheus, Telegraf and Grafana ask for what boards tell; `rigs.clients` runs Prometheus itself."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from edge_agent.board.governor import Level
from edge_agent.core.topics import Topics, matches
from edge_agent.status.presence import State
from tests.conftest import needs
from tests.docs.pages import health_sample

FOLDER = Path(__file__).parents[1] / "examples/monitoring"
EXPORTER = (FOLDER / "prometheus-mqtt-exporter.yaml").read_text(encoding="utf-8")
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
TELEGRAF = tomllib.loads((FOLDER / "telegraf.conf").read_text(encoding="utf-8"))
(SUBSCRIPTION,) = TELEGRAF["inputs"]["mqtt_consumer"]
RULES = (FOLDER / "edge-agent.rules.yml").read_text(encoding="utf-8")
# The name and the path in the document of each metric; one name has a path for each reason.
METRICS = re.findall(r"  - \{?prom_name: (\w+)\b[^{]*?\bmqtt_name: ([\w.-]+)", EXPORTER, flags=re.DOTALL)
# Words of the documents as the exporter has them.
NUMBERS = {"ok": 0, "degraded": 1, "critical": 2, "normal": 0, "online": 3}
TASK = "pump-triage"


def health() -> dict[str, Any]:
    document: dict[str, Any] = health_sample()
    document["accuracy"] = {TASK: document["accuracy"]["machine-check"]}
    document["thermal"].update(soc_c=61.5, limit_c=80.0, headroom_c=18.5)
    return document


def at(document: dict[str, Any], path: str) -> Any:
    """What stands at a path; raises KeyError if there is no such field."""
    value: Any = document
    for name in path.split("."):
        value = value[name]
    return value


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_is_named_after_a_field_of_health_or_state() -> None:
    document = {**health(), "state": "online"}
    assert len(METRICS) == EXPORTER.count("prom_name")
    for name, path in METRICS:
        at(document, path)
        part, *_ = path.split(".")
        shown = {"severity": part, "accuracy": path.replace(f".{TASK}.", "_")}.get(part, path.replace(".", "_"))
        assert name == f"edge_agent_{shown}"
    assert EXPORTER.count(f"mqtt_name: accuracy.{TASK}.") == EXPORTER.count(f"{{task: {TASK}}}") == 5
    reasons = re.findall(r"mqtt_name: severity\.([\w-]+)[^}]*\{reason: ([\w-]+)\}", EXPORTER)
    assert [name for name, _ in reasons] == [label for _, label in reasons]
    assert {name for name, _ in reasons} == set(document["severity"])


def test_every_word_of_state_and_health_has_a_number() -> None:
    words = {*State, "ok", "degraded", "critical", *(level.name.lower() for level in Level)}
    maps = re.findall(r"map: \{(.*)\}", EXPORTER)
    assert set(re.findall(r"(\w+): \d", " ".join(maps))) == {str(word) for word in words}


def test_the_dashboard_shows_every_metric_that_exists_and_no_other() -> None:
    variables = json.dumps(DASHBOARD["templating"])
    asked = set(re.findall(r"edge_agent_\w+", "\n".join(expressions()) + variables))
    assert asked == {name for name, _ in METRICS}
    assert all('{site=~"$site",device=~"$device"}' in expression for expression in expressions())


def test_telegraf_subscribes_to_the_same_topics_and_knows_which_fields_are_texts() -> None:
    topics, document = Topics("edgeai/v1", "hall1", "board1"), {**health(), "state": "online"}
    (exporter,) = re.findall(r"topic_path: (\S+)\n", EXPORTER)
    for topic in (topics.state, topics.health):
        assert matches(exporter, topic)
        assert any(matches(topic_filter, topic) for topic_filter in SUBSCRIPTION["topics"])
    paths = {path.replace(".", "_"): path for _, path in METRICS}
    no_numbers = {name for name, path in paths.items() if not isinstance(at(document, path), int | float)}
    unknown_here = {name for name in no_numbers if at(document, paths[name]) is None}
    asked = set(SUBSCRIPTION["json_string_fields"])
    assert no_numbers - unknown_here <= asked
    assert asked <= no_numbers


def test_alerts_ask_for_metrics_and_reasons_that_exist() -> None:
    assert set(re.findall(r"edge_agent_\w+", RULES)) <= {name for name, _ in METRICS}
    (left_out,) = re.findall(r'reason!~"([\w|-]+)"', RULES)
    assert set(left_out.split("|")) <= set(health()["severity"])


@needs("promtool", "prometheus")
def test_alerts_fire_when_they_should() -> None:
    command = ["promtool", "test", "rules", str(Path(__file__).with_name("alerts.yml"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
