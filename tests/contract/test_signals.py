"""`[signals]`, as a plant with single values sees it, at both MQTT versions, over a real broker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import BrokerPort, wait_until
from tests.helpers.site import Site, StartSite, running_site

MORE = """
[health]
interval_s = 1
[tasks.pump]
kind = "classify"
labels = ["normal", "worn"]
signals = ["pump", "mill"]
publish = "plant/answers/{machine}"
[signals.pump]
window_s = 60
every_s = 0
min_gap_s = 0
min_coverage = 0
features = ["last", "max"]
record_every_s = 0.001
[signals.pump.values]
vib = { topic = "plant/pumps/+/vib" }
temp = { topic = "plant/pumps/+/temp", path = ["value"], retained = true }
[signals.pump.trigger]
on_change = ["vib"]
[signals.mill]
window_s = 60
every_s = 0
min_coverage = 0
features = ["last", "max"]
[signals.mill.values]
vib = { topic = "plant/mills/+", path = ["vib"] }
temp = { topic = "plant/mills/+", path = ["temp"] }
[signals.mill.trigger]
on_change = ["vib"]
"""


@pytest.fixture(scope="module")
def agent_of_module(broker_port: BrokerPort, tmp_path_factory: pytest.TempPathFactory, protocol: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("agent"), broker_port(protocol), protocol, more=MORE) as site:
        yield site


def health_of_signals(site: Site) -> dict[str, Any]:
    site.command("health")
    document: dict[str, Any] = site.client.on(f"{site.base}/health")[-1].json["signals"]["pump"]
    return document


def test_values_of_two_topics_are_asked_about_and_answered_to_their_machine(site: Site) -> None:
    site.client.publish("plant/pumps/p7/temp", {"value": 70}, qos=0)
    for value in ("1", "2"):
        site.client.publish("plant/pumps/p7/vib", value, qos=0)
    (answer,) = site.client.wait("plant/answers/p7")
    assert (answer.json["status"], answer.json["machine"], answer.json["task"]) == ("ok", "p7", "pump")
    site.client.publish("plant/pumps/p7/vib", "2", qos=0)
    site.command("ping")
    assert len(site.client.on("plant/answers/p7")) == 1


def test_a_task_answers_the_readings_of_several_tables(site: Site) -> None:
    for vib in (1, 2):
        site.client.publish("plant/mills/m1", {"vib": vib, "temp": 70}, qos=0)
    (answer,) = site.client.wait("plant/answers/m1")
    assert (answer.json["status"], answer.json["machine"], answer.json["task"]) == ("ok", "m1", "pump")


def test_the_latest_values_are_published_for_people_with_their_ages(site: Site) -> None:
    site.client.publish("plant/pumps/p6/vib", "1.5", qos=0)
    told = site.client.wait_for(f"{site.base}/signals/pump", lambda latest: "p6" in latest["machines"])
    (value, age_s), unheard = (told.json["machines"]["p6"][name] for name in ("vib", "temp"))
    assert (value, 0 <= age_s < 60, unheard) == (1.5, True, [None, None])
    assert told.json["left_out"] == 0


def test_a_machine_that_lacks_a_value_is_named_and_not_asked_about(site: Site) -> None:
    for value in ("1", "9,5", "2"):
        site.client.publish("plant/pumps/p8/vib", value, qos=0)
    wait_until(lambda: "p8" in health_of_signals(site)["lacking"], "health names p8")
    health = site.client.on(f"{site.base}/health")[-1].json
    assert health["signals"]["pump"]["lacking"]["p8"] == ["temp"]
    assert health["signals"]["pump"]["not_taken"] == {"decimal-comma": 1}
    assert "signals-stale" in health["reasons"]
    assert not site.client.on("plant/answers/p8")


def test_a_value_that_goes_missing_is_reported_once_on_the_topic_of_answers(site: Site) -> None:
    site.client.publish("plant/pumps/p9/temp", {"value": 70}, qos=0)
    for value in ("1", "2"):
        site.client.publish("plant/pumps/p9/vib", value, qos=0)
    site.client.wait("plant/answers/p9")
    site.client.publish("plant/pumps/p9/temp", {"value": "ERR"}, qos=0)
    wait_until(lambda: health_of_signals(site)["lacking"].get("p9") == ["temp"], "the value is missing")
    for value in ("3", "4"):
        site.client.publish("plant/pumps/p9/vib", value, qos=0)
    _, told = site.client.wait("plant/answers/p9", count=2)
    assert (told.json["status"], told.json["error"]["code"], told.json["machine"]) == ("invalid", "bad_field", "p9")
    assert told.json["error"]["message"] == 'temp: missing: its last message has no usable number: "ERR"'
    wait_until(lambda: health_of_signals(site)["incomplete_total"] >= 2, "the second one was due, too")
    assert len(site.client.on("plant/answers/p9")) == 2


def test_a_restart_keeps_the_window_but_no_value(start_site: StartSite, tmp_path: Path) -> None:
    site = start_site("5", more=MORE)
    site.client.publish("plant/pumps/r1/temp", {"value": 70}, qos=0)
    for value in ("1", "50", "2"):
        site.client.publish("plant/pumps/r1/vib", value, qos=0)
    site.client.wait("plant/answers/r1", count=2)
    site.agent.stop()
    site.client.publish("plant/pumps/r1/temp", {"value": 71}, retain=True)
    again = start_site("5", more=MORE, device=site.base.rpartition("/")[2])
    wait_until(lambda: health_of_signals(again)["lacking"] == {"r1": ["vib"]}, "the retained value has come")
    again.client.publish("plant/pumps/r1/vib", "3", qos=0)
    again.client.wait("plant/answers/r1")
    again.agent.stop()
    rows = [json.loads(line) for line in (tmp_path / "state/signals-pump.jsonl").read_text("utf-8").splitlines()]
    assert rows[-1]["machine"] == "r1"
    assert rows[-1]["input"] == {"vib": {"last": 3.0, "max_1m": 50.0}, "temp": {"last": 71.0, "max_1m": 71.0}}
    again.client.publish("plant/pumps/r1/temp", b"", retain=True)
