import json
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_agent.status.alarms import ALARMS
from edge_agent.status.homeassistant import discovery, discovery_document, object_id
from tests.docs.pages import health_sample
from tests.helpers.support import BASE, config

ENABLED = "[homeassistant]\nenabled = true\n"


def components(text: str = ENABLED) -> dict[str, dict[str, Any]]:
    return discovery_document(config(text), "Raspberry Pi 5 Model B Rev 1.0")["components"]  # type: ignore[no-any-return]


def render(template: str, document: Any) -> str:
    """Renders as Home Assistant does, with the payload as `value`, and as `value_json` if it is JSON."""
    names = {"value": "" if document is None else json.dumps(document)}
    if document is not None:
        names["value_json"] = document
    return ImmutableSandboxedEnvironment().from_string(template).render(names)


def shown(document: Any) -> dict[str, str]:
    """What each entity that is made of health shows."""
    return {
        key: render(component["value_template"], document)
        for key, component in components().items()
        if component.get("state_topic") is None
    }


def nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: nulls(value) if isinstance(value, dict) else None for name, value in fields.items()}


def test_a_device_is_announced_in_one_retained_message() -> None:
    publication = discovery(config(ENABLED), "Raspberry Pi 5 Model B Rev 1.0")
    assert publication is not None
    assert discovery(config(), "m") is None
    topic = f"homeassistant/device/{object_id(config(ENABLED))}/config"
    assert (publication.topic, publication.qos, publication.retain) == (topic, 1, True)
    document = json.loads(publication.payload)
    assert set(document) == {"device", "origin", "availability", "state_topic", "components"}
    assert document["device"]["name"] == "hall1 board1"
    assert document["device"]["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert document["state_topic"] == f"{BASE}/health"


def test_no_two_boards_are_one_device() -> None:
    names = [("a_b", "c", "r"), ("a", "b_c", "r"), ("a", "b_c", "q")]
    configs = [config().model_copy(deep=True) for _ in names]
    for settings, (site, device, root) in zip(configs, names, strict=True):
        object.__setattr__(settings, "device", settings.device.model_copy(update={"site": site, "id": device}))
        object.__setattr__(settings, "mqtt", settings.mqtt.model_copy(update={"root": root}))
    assert len({object_id(settings) for settings in configs}) == 3


def test_each_entity_has_an_identity_of_its_own_and_a_name() -> None:
    found = components()
    assert len({component["unique_id"] for component in found.values()}) == len(found)
    assert len({component["name"] for component in found.values()}) == len(found)
    assert {component["platform"] for component in found.values()} == {"sensor", "binary_sensor"}


def test_entities_show_the_figures_of_health() -> None:
    document = health_sample()
    document["overall"], document["severity"]["disk-low"] = "degraded", 1
    document["queue"]["depth"] = 7
    document["thermal"].update(soc_c=61.5, headroom_c=18.5, throttled_now=True)
    document["power"].update(watts=4.2, undervoltage_now=False, joules_total=1234.5)
    document["inference"].update(decode_tok_s=11.5)
    document["cpu"]["percent"], document["memory"]["available_mb"], document["disk"]["free_mb"] = 0.0, 512.0, 9000.5
    document["governor"]["level"] = "warm"
    entities = shown(document)
    assert {name: value for name, value in entities.items() if not name.startswith("alarm_")} == {
        "health": "degraded", "queue": "7", "decode_rate": "11.5", "latency_p95": "452.7", "power": "4.2",
        "energy": "1234.5", "soc_temperature": "61.5", "headroom": "18.5", "governor_level": "warm", "cpu": "0.0",
        "memory_available": "512.0", "disk_free": "9000.5", "throttled": "ON", "undervoltage": "OFF",
    }  # fmt: skip
    alarms = {name: value for name, value in entities.items() if name.startswith("alarm_")}
    assert len(alarms) == len(ALARMS)
    assert [name for name, value in alarms.items() if value == "ON"] == ["alarm_disk_low"]


def test_a_task_whose_answers_may_call_for_a_look_has_an_entity() -> None:
    tasks = '[tasks.watch]\nkind = "unusual"\n[tasks.off]\nkind = "unusual"\nenabled = false\n'
    found = components(ENABLED + tasks)
    assert [key for key in found if key.startswith("notable_")] == ["notable_watch"]
    watch, document = found["notable_watch"], health_sample()
    assert (watch["name"], render(watch["value_template"], document)) == ("Unusual: watch", "0")
    counts = document["inference"]["notable"]["watch"] = {"answers_total": 900, "notable_total": 3}
    assert render(watch["value_template"], document) == "3"
    assert json.loads(render(watch["json_attributes_template"], document)) == counts


def test_figures_that_are_not_measured_are_unknown_and_never_0() -> None:
    document = health_sample()
    for section in ("severity", "inference", "cpu", "memory", "disk"):
        document[section] = nulls(document[section])
    entities = shown(document)
    # Home Assistant's word for unknown.
    unknown = {name for name, value in entities.items() if value == "None"}
    assert unknown == {
        *("decode_rate", "latency_p95", "power", "energy", "soc_temperature", "headroom", "cpu"),
        *("memory_available", "disk_free", "throttled", "undervoltage"),
        *(name for name in components() if name.startswith("alarm_")),
    }


def test_a_board_is_available_while_it_publishes_health() -> None:
    (availability,) = discovery_document(config(ENABLED), "m")["availability"]
    assert availability["topic"] == f"{BASE}/state"
    states = ("online", "draining", "stopped", "offline")
    shown = [render(availability["value_template"], {"state": state}) for state in states]
    assert shown == ["online", "online", "offline", "offline"]
    # The state is shown also while the board is gone.
    assert components()["state"]["availability"] == []


@pytest.mark.parametrize(("interval_s", "expire_after"), [(0.1, 1), (2.5, 8)])
def test_a_figure_expires_with_its_health(interval_s: float, expire_after: int) -> None:
    found = components(f"{ENABLED}[health]\ninterval_s = {interval_s}\n")
    assert {c["expire_after"] for c in found.values() if "state_topic" not in c} == {expire_after}
    assert "expire_after" not in found["state"]


def test_an_alarm_shows_its_message_and_nothing_once_it_has_ended() -> None:
    alarm = components()["alarm_disk_low"]
    assert alarm["json_attributes_topic"] == f"{BASE}/alarm/disk-low"
    told = {"message": "remove old models", "severity": "warning"}
    assert json.loads(render(alarm["json_attributes_template"], told)) == told
    assert json.loads(render(alarm["json_attributes_template"], None)) == {}
