import json
from typing import Any

import pytest

from edge_agent.core.signal_tables import ValueTable
from edge_agent.signals import values
from edge_agent.signals.source import NotTakenError
from edge_agent.signals.values import ABSENT

NOW = 1_800_000_000.0
# Payloads as the documentation of each source has them, with where the value stands and what it is.
SOURCES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "ESPHome": ("233.3", {}, 233.3),
    "Home Assistant statestream": ('"21.4"', {}, 21.4),
    "Zigbee2MQTT": ('{"temperature":27.34,"humidity":44.72}', {"path": ["temperature"]}, 27.34),
    "Tasmota": (
        '{"Time":"2017-02-16T10:13:52","DS18B20":{"Temperature":20.6}}',
        {"path": ["DS18B20", "Temperature"]},
        20.6,
    ),
    "Tasmota's state": ("ON", {"map": {"ON": 1, "OFF": 0}}, 1.0),
    "Shelly Gen2": (
        '{"src":"shelly","method":"NotifyStatus","params":{"ts":1.0,"switch:0":{"id":0,"apower":375.0}}}',
        {"path": ["params", "switch:0", "apower"]},
        375.0,
    ),
    "Shelly Gen2, of another part": (
        '{"src":"shelly","method":"NotifyStatus","params":{"ts":1.0,"switch:1":{"id":1,"apower":375.0}}}',
        {"path": ["params", "switch:0", "apower"]},
        ABSENT,
    ),
    "Telegraf": (
        '{"fields":{"usage_idle":91.5},"name":"cpu","tags":{"host":"a"},"timestamp":1458229140}',
        {"path": ["fields", "usage_idle"]},
        91.5,
    ),
    "Kepware": (
        '{"timestamp":1593698672213,"values":[{"id":"Channel1.Device1.Tag1","v":1121,"q":true,"t":1593698671342}]}',
        {
            "path": ["values", {"id": "Channel1.Device1.Tag1"}, "v"],
            "quality": ["values", {"id": "Channel1.Device1.Tag1"}, "q"],
        },
        1121.0,
    ),
    "Neuron": (
        '{"timestamp":1,"node":"modbus","group":"grp","values":{"tag0":123},"errors":{"tag1":2014}}',
        {"path": ["values", "tag0"]},
        123.0,
    ),
    "Neuron, with an array": (
        '{"timestamp":1,"node":"modbus","group":"grp","tags":[{"name":"tag0","value":123}]}',
        {"path": ["tags", {"name": "tag0"}, "value"]},
        123.0,
    ),
    "AVEVA": ('{"d":81.5,"dt":5,"ts":"2021-06-17T22:46:07Z","q":192}', {"path": ["d"], "quality": ["q"]}, 81.5),
    "OPC UA": (
        '{"temperature":{"SourceTimestamp":"2024-01-01T00:00:00Z","Value":4558},"Tag 10":{"Value":1}}',
        {"path": ["Tag 10", "Value"]},
        1.0,
    ),
    "a boolean": ("true", {}, 1.0),
    "a boolean with a map": ("true", {"map": {"true": 5}}, 5.0),
    "null": ('{"value":null}', {"path": ["value"]}, None),
    "the number of an element": ("[3,4]", {"path": [1]}, 4.0),
    "a decimal comma": ("-7,31", {"decimal_comma": True}, -7.31),
    "a point where others have commas": ('"7.31"', {"decimal_comma": True}, 7.31),
    "another shape": ('{"uptime":7}', {"path": ["value"]}, ABSENT),
    "a bare null": ("null", {"path": ["value"]}, None),
}


def read(payload: bytes, keys: dict[str, Any], max_age_s: float = 60.0) -> object:
    return values.read(ValueTable.model_validate({"topic": "t", **keys}), values.parse(payload), NOW, max_age_s)


@pytest.mark.parametrize("name", SOURCES)
def test_payloads_of_each_source_are_read(name: str) -> None:
    payload, keys, expected = SOURCES[name]
    assert read(payload.encode(), keys) == expected


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"9,5", "decimal-comma"),
        (b'"-20,25"', "decimal-comma"),
        (b"9,5,1", "not-a-number"),
        (b"unavailable", "not-a-number"),
        (b"1_000", "not-a-number"),
        (b"NaN", "not-a-number"),
        (b"1e999", "not-a-number"),
        (b"-1e308", "too-large"),
        (b'{"a":', "bad-json"),
        (b'{"a":1}', "not-a-number"),
        (b"\xff\xfe", "not-text"),
        (b"  ", "empty"),
        (b"1" * 1_000_001, "too-long"),
        (b"[" + b"1," * 50_001 + b"1]", "too-long"),
    ],
)
def test_text_that_is_not_a_number_is_not_taken(payload: bytes, reason: str) -> None:
    with pytest.raises(NotTakenError) as raised:
        read(payload, {})
    assert raised.value.reason == reason


def test_a_value_of_bad_quality_is_not_taken() -> None:
    payload = b'{"timestamp":1593698672213,"values":[{"id":"Tag1","v":1121,"q":false,"t":1593698671342}]}'
    with pytest.raises(NotTakenError, match="bad-quality"):
        read(payload, {"path": ["values", {"id": "Tag1"}, "v"], "quality": ["values", {"id": "Tag1"}, "q"]})


@pytest.mark.parametrize("payload", [b"1,234,5", b"1.234,5", b"1,234.5", b",", b"[1,5]"])
def test_a_comma_that_is_not_the_only_separator_makes_no_number(payload: bytes) -> None:
    with pytest.raises(NotTakenError, match="not-a-number"):
        read(payload, {"decimal_comma": True})


@pytest.mark.parametrize("time", [NOW - 61, (NOW - 61) * 1000, "2027-01-15T07:58:59Z"])
def test_a_value_that_was_measured_too_long_ago_is_late(time: object) -> None:
    payload = json.dumps({"v": 1, "ts": time}).encode()
    with pytest.raises(NotTakenError, match="late"):
        read(payload, {"path": ["v"], "time": ["ts"]})
    assert read(payload, {"path": ["v"], "time": ["ts"]}, max_age_s=62.0) == 1.0


@pytest.mark.parametrize("payload", [{"v": 1, "ts": NOW + 500}, {"v": 1, "ts": None}, {"v": 1}])
def test_without_a_time_in_the_past_the_arrival_counts(payload: object) -> None:
    assert read(json.dumps(payload).encode(), {"path": ["v"], "time": ["ts"]}) == 1.0


@pytest.mark.parametrize("time", ["yesterday", "2026-11-30T19:00:00", "", True, {}])
def test_a_value_whose_time_cannot_be_read_is_not_taken(time: object) -> None:
    with pytest.raises(NotTakenError, match="bad-time"):
        read(json.dumps({"v": 1, "ts": time}).encode(), {"path": ["v"], "time": ["ts"]})
