from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from edge_agent.core.config import Config
from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import MAX_VALUES, SignalsTable
from edge_agent.signals.discovery import propose
from edge_agent.signals.proposal import numbered
from edge_agent.signals.signal_table import new_table
from edge_agent.tools.init import found_lines
from edge_agent.tools.toml import toml
from tests.helpers.sparkplug import Payload as SparkplugPayload
from tests.helpers.support import config

PLAIN = [
    (f"plant/pump-{number}/{name}", payload)
    for number in (7, 8)
    for name, payload in (("vibration", "7.5"), ("temperature", '{"value":61,"ts":17}'), ("state", "ON"))
]


def heard(*messages: tuple[str, str], is_retained: bool = False) -> Iterator[Message]:
    for topic, payload in messages:
        yield Message(
            topic=topic, payload=payload.encode(), qos=0, packet_id=0, received_at=0.0, is_retained=is_retained
        )


@pytest.mark.parametrize(
    ("messages", "machine", "machines", "topics"),
    [
        (PLAIN, "{1}", ["pump-7", "pump-8"], {"plant/+/vibration", "plant/+/temperature", "plant/+/state"}),
        (PLAIN[:3], "{1}", ["pump-7"], {"plant/+/vibration", "plant/+/temperature", "plant/+/state"}),
        (
            [("plant/press/force", "1"), ("plant/press/stroke", "2")],
            "{1}",
            ["press"],
            {"plant/+/force", "plant/+/stroke"},
        ),
        (
            [("zigbee2mqtt/hall", '{"humidity":44.7}'), ("zigbee2mqtt/yard", '{"humidity":40}')],
            "{1}",
            ["hall", "yard"],
            {"zigbee2mqtt/+"},
        ),
        (
            [
                *((f"zigbee2mqtt/{name}", '{"humidity":44.7,"linkquality":90}') for name in ("hall", "yard")),
                *((f"zigbee2mqtt/{name}/availability", '{"state":"online"}') for name in ("hall", "yard")),
                ("zigbee2mqtt/bridge/state", '{"state":"online"}'),
            ],
            "{1}",
            ["hall", "yard"],
            {"zigbee2mqtt/+", "zigbee2mqtt/+/availability"},
        ),
        (
            [("tele/tasmota_A/SENSOR", '{"Time":"2017","ENERGY":{"Current":3.1}}'), ("stat/tasmota_A/POWER", "ON")],
            "{1}",
            ["tasmota_A"],
            {"tele/+/SENSOR", "stat/+/POWER"},
        ),
        (
            [(f"site/line{line}/press{line}/force", "1") for line in (1, 2)],
            "{1}/{2}",
            ["line1/press1", "line2/press2"],
            {"site/+/+/force"},
        ),
        (
            [("iotgateway", '{"values":[{"id":"Pump7.Temp","v":1,"q":true}]}')],
            "iotgateway",
            ["iotgateway"],
            {"iotgateway"},
        ),
    ],
    ids=["two machines", "one machine", "no digits", "Zigbee2MQTT", "its bridge", "Tasmota", "two levels", "Kepware"],
)
def test_a_table_is_proposed_that_reads_what_was_heard(
    messages: list[tuple[str, str]], machine: str, machines: list[str], topics: set[str]
) -> None:
    proposal = propose(heard(*messages))
    assert (proposal.keys.get("machine", "{1}"), proposal.machines) == (machine, machines)
    assert {value.topic for value in proposal.values.values()} == topics
    table = new_table("t", SignalsTable.model_validate({**proposal.table(), "min_coverage": 0}))
    for number, message in enumerate(heard(*messages)):
        list(table.receive(message.topic, message.payload, is_retained=False, now=1.8e9 + number))
    assert sorted(table.machines) == machines
    assert not table.not_taken
    taken = {
        name for known in table.machines.values() for name, track in known.tracks.items() if track.value is not None
    }
    assert taken == proposal.values.keys()


BARE_AND_WRAPPED = [
    (f"works/{machine}/{name}", payload)
    for machine in ("press", "lathe")
    for name, payload in (
        ("vibration", "7.5"),
        ("current", "3"),
        ("temperature", '{"value":61,"unit":"C"}'),
        ("pressure", '{"value":2.5,"unit":"bar"}'),
    )
]


@pytest.mark.parametrize("machines", [["lathe", "press"], ["press"]])
def test_wrapped_values_are_told_apart_by_their_topics_like_bare_ones(machines: list[str]) -> None:
    proposal = propose(heard(*(each for each in BARE_AND_WRAPPED if each[0].split("/")[1] in machines)))
    assert (proposal.keys, proposal.machines, proposal.other) == ({}, machines, None)
    assert {name: value.table for name, value in proposal.values.items()} == {
        "current": {"topic": "works/+/current"},
        "pressure": {"topic": "works/+/pressure", "path": ["value"]},
        "temperature": {"topic": "works/+/temperature", "path": ["value"]},
        "vibration": {"topic": "works/+/vibration"},
    }


def test_both_tables_are_proposed_if_topics_may_end_in_parts_or_in_machines() -> None:
    parts = [(f"works/{line}/{part}", '{"temp":61}') for line in ("a", "b") for part in ("motor", "pump")]
    proposal = propose(heard(*parts))
    assert (proposal.keys, proposal.machines) == ({}, ["a", "b"])
    assert {name: value.topic for name, value in proposal.values.items()} == {
        "motor_temp": "works/+/motor",
        "pump_temp": "works/+/pump",
    }
    assert proposal.other is not None
    assert (proposal.other.keys["machine"], len(proposal.other.machines)) == ("{1}/{2}", 4)
    one_machine = propose(heard(*parts[:2]))
    assert one_machine.machines == ["a"]
    assert one_machine.other is not None
    assert one_machine.other.machines == ["motor", "pump"]
    devices = propose(heard(*((f"home/zigbee2mqtt/{name}", '{"temp":61,"hum":40}') for name in ("hall", "yard"))))
    assert devices.machines == ["hall", "yard"]
    places = propose(heard(*((f"home/{name}", '{"temp":61}') for name in ("hall/a", "hall/b", "yard/c"))))
    assert (places.machines, places.other) == (["hall/a", "hall/b", "yard/c"], None)


def test_the_proposal_is_a_configuration() -> None:
    proposal = propose(heard(*PLAIN))
    tables = "".join(f"{name} = {toml(value)}\n" for name, value in proposal.table()["values"].items())
    settings: Config = config(f"[signals.plant]\n[signals.plant.values]\n{tables}")
    assert settings.signals["plant"].field_names()[:2] == ["state.last", "state.mean_10m"]
    assert proposal.values["state"].table == {
        "topic": "plant/+/state",
        "map": {"OFF": 0, "ON": 1},
        "max_age_s": 0,
        "retained": True,
        "features": ["last", "mean"],
    }


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("/temperature", "7"),
        ("$SYS/load", "7"),
        ("plant/tags", '[{"id":[1],"name":"speed","v":7}]'),
        ("plant/tags", '{"level":1,"tags":[{"id":null,"v":7}]}'),
    ],
)
def test_odd_topics_and_payloads_give_a_table_that_is_valid(topic: str, payload: str) -> None:
    proposal = propose(heard((topic, payload)))
    SignalsTable.model_validate(proposal.table())


@pytest.mark.parametrize(
    "messages",
    [
        (),
        [("plant/p1/info", '{"Id":"0119","Name":"7","unit":"C"}'), ("plant/p1/info", "")],
        [(f"plant/p1/{n}", '{"task":"t","device":"d","status":"ok","output":"a","timing":{"ms":1}}') for n in (1, 2)],
    ],
    ids=["nothing", "names", "replies of a board"],
)
def test_what_is_no_value_of_a_machine_is_not_even_named(messages: Sequence[tuple[str, str]]) -> None:
    proposal = propose(heard(*messages))
    assert (proposal.values, proposal.left_out) == ({}, [])


STATE = "if it is a state, give it a `map` of all its texts"


@pytest.mark.parametrize(
    ("messages", "left_out"),
    [
        ([(f"p1/log{n}", f"pump started at {n} by a man in a hurry") for n in range(11)], "3 more values"),
        ([("p1/b", "\0")], 'p1/b: texts that are not states, such as "\\u0000"'),
        ([("p1/b", "{")], "p1/b: a payload that is not JSON"),
        ([("p1/start", "2026-01-01T00:00:00")], 'p1/start: texts that are not states, such as "2026-01-01T00:00:00"'),
        ([("p1/uptime", "1T02:03:04")], 'p1/uptime: texts that are not states, such as "1T02:03:04"'),
        ([("plant/p1/alarm", "OK"), ("plant/p2/alarm", "OK")], f'plant/+/alarm: only the text "OK"; {STATE}'),
        ([("p1/x", '{"a":{"st":"RUN"}}')], f'+/x at a.st: only the text "RUN"; {STATE}'),
        ([("p1/x", '{"st":[7,8]}')], "p1/x at st: an array; a `path` that ends in 0 takes its first element"),
        ([("p1/who", f"user{n}") for n in range(7)], 'p1/who: texts that are not states, such as "user0"'),
        ([*PLAIN, ("plant", "5")], "plant: the topic is too short to name a machine"),
        ([*PLAIN, ("plant/pump-7/alarm", "OK")], f'plant/+/alarm: only the text "OK"; {STATE}'),
    ],
)
def test_what_is_neither_a_number_nor_a_state_is_left_out_by_name(
    messages: Sequence[tuple[str, str]], left_out: str
) -> None:
    proposal = propose(heard(*messages))
    assert bool(proposal.values) == (messages[0] == PLAIN[0])
    assert [line for line in proposal.left_out if line.startswith(left_out)]
    assert len(proposal.left_out) <= 9
    beside_nodes = propose([*heard(*messages), *births("P/NBIRTH/m")])
    assert [line for line in beside_nodes.left_out if line.startswith(left_out)]


def test_numbers_with_a_decimal_comma_are_proposed_as_such() -> None:
    proposal = propose(heard(*PLAIN, *((f"plant/pump-{n}/oil", text) for n in (7, 8) for text in ("10.5", "9,5"))))
    assert proposal.values["oil"].table == {"topic": "plant/+/oil", "decimal_comma": True}


@pytest.mark.parametrize(
    ("texts", "was_retained", "is_held"),
    [
        (["ON"], False, True),
        (["ON", "OFF", "ON"], False, True),
        (["OFF", "ON"] * 5, True, True),
        (["OFF", "ON"] * 5, False, True),
        (["OFF", "ON", "OFF", "ON", "ON"], False, False),
        (["ON", "ON"], False, False),
        (["ON", "ON", "ON", "OFF"], True, False),
    ],
)
def test_only_a_state_that_comes_on_change_holds_for_ever(
    texts: list[str], *, was_retained: bool, is_held: bool
) -> None:
    """If it comes again and again without a change, its silence must be noticed."""
    first, *others = [("plant/p1/state", text) for text in texts]
    proposal = propose([*heard(first, is_retained=was_retained), *heard(*others)])
    table = proposal.values["state"].table
    assert table["map"] == {"OFF": 0, "ON": 1}
    assert (table.get("max_age_s"), table.get("retained")) == ((0, True) if is_held else (None, None))


def test_a_number_that_only_rises_at_every_machine_is_known() -> None:
    documents = [f'{{"seq":{900 + at},"level":{at if at < 9 else 0},"speed":{at % 7}}}' for at in range(20)]
    seldom = [(f"plant/pump-{number}/parts", str(at)) for number in (7, 8) for at in range(5)]
    proposal = propose(heard(*((f"plant/pump-{n}/state", text) for n in (7, 8) for text in documents), *seldom))
    assert [name for name, value in proposal.values.items() if value.only_rises] == ["seq"]
    assert any("seq only rose while listening" in line for line in found_lines(proposal))
    # Machines of every kind count, so that says nothing of their kind.
    others = (f'{{"seq":{at},"heat":{at % 7}}}' for at in range(20))
    both = propose(
        heard(*(("plant/pump-7/state", text) for text in documents), *(("plant/oven-1/state", text) for text in others))
    )
    assert [machines for machines, _ in both.kinds] == [["oven-1"], ["pump-7"]]


def test_a_text_among_numbers_gets_no_number() -> None:
    proposal = propose(heard(("plant/p1/temp", "7.5"), ("plant/p1/temp", "unavailable")))
    assert proposal.values["temp"].table == {"topic": "plant/+/temp"}


def test_a_quality_that_is_known_to_be_good_is_proposed() -> None:
    qualities = {"a": "true", "b": "192", "c": "0", "d": '"ok"'}
    tags = ",".join(f'{{"id":"{name}","v":1,"q":{quality}}}' for name, quality in qualities.items())
    proposal = propose(heard(("iotgateway", f'{{"values":[{tags}]}}')))
    proposed = {name: value.table["quality"] for name, value in proposal.values.items() if value.quality}
    assert proposed == {name: ["values", {"id": name}, "q"] for name in ("a", "b")}


def test_what_only_some_machines_have_is_optional_and_what_shares_nothing_is_no_machine() -> None:
    proposal = propose(heard(*PLAIN, ("plant/pump-7/flow", "3"), ("plant/bridge/version", "2")))
    assert [name for name, value in proposal.values.items() if value.table.get("optional")] == ["flow"]
    assert proposal.machines == ["pump-7", "pump-8"]
    assert proposal.left_out == [
        "bridge: shares no value with other machines",
        "ts: a time, which `time` of a value compares with its `max_age_s`",
    ]


def test_machines_with_another_payload_on_the_same_topics_get_a_table_of_their_own() -> None:
    bare = [(f"plant/pump-{number}/{name}", "5") for number in (7, 8) for name in ("vibration", "temperature")]
    wrapped = [(f"plant/press-1/{name}", '{"value":5}') for name in ("vibration", "temperature")]
    proposal = propose(heard(*bare, *wrapped))
    (other,) = proposal.more
    assert (proposal.machines, other.machines) == (["pump-7", "pump-8"], ["press-1"])
    assert {name: value.table for name, value in other.values.items()} == {
        name: {"topic": f"plant/+/{name}", "path": ["value"]} for name in ("temperature", "vibration")
    }
    assert not any("shares no value" in text for text in proposal.left_out)
    assert list(proposal.tables("plant")) == ["plant", "plant_2"]
    tables = [new_table(name, SignalsTable.model_validate(table)) for name, table in proposal.tables("plant").items()]
    for message in heard(*bare, *wrapped, *bare):
        for table in tables:
            list(table.receive(message.topic, message.payload, is_retained=False, now=1.8e9))
    assert [sorted(table.machines) for table in tables] == [proposal.machines, other.machines]


def test_a_proposal_fits_into_a_table_and_says_what_does_not() -> None:
    proposal = propose(heard(*((f"plant/p{number}/x{value}/temp", "1") for number in (1, 2) for value in range(40))))
    assert len(proposal.values) <= MAX_VALUES
    proposal = propose(heard(*((f"plant/p{number}/x{value}", "1") for number in (1, 2) for value in range(34))))
    assert len(proposal.values) == MAX_VALUES
    assert proposal.left_out == ["2 of 34 values, because a table takes 32: x8, x9"]


TEMP, RUNS = {"name": "Motor/Temp", "float_value": 7.5}, {"name": "Runs", "boolean_value": True}
OTHERS = ({"name": "bdSeq", "long_value": 1}, {"name": "Node Control/Rebirth", "boolean_value": False})
TEXT, NULL = {"name": "Serial", "string_value": "A-1"}, {"name": "Null", "is_null": True}


def births(*addresses: str, metrics: Sequence[dict[str, Any]] = (*OTHERS, TEXT, NULL, TEMP, RUNS)) -> list[Message]:
    payload = bytes(SparkplugPayload(metrics=metrics).SerializeToString())
    return [replace(message, payload=payload) for message in heard(*((f"spBv1.0/{at}", "") for at in addresses))]


@pytest.mark.parametrize(
    ("addresses", "keys", "machines"),
    [
        (["P/NBIRTH/n", "P/DBIRTH/n/a", "P/DBIRTH/n/b"], {"group": "P", "node": "n", "device": "+"}, ["n/a", "n/b"]),
        (["P/DBIRTH/n/a"], {"group": "P", "node": "n", "device": "a"}, ["n/a"]),
        (["P/NBIRTH/m", "P/NBIRTH/n"], {"group": "P", "node": "+", "device": ""}, ["m", "n"]),
        (
            ["P/DBIRTH/n/a", "Q/DBIRTH/n/a"],
            {"group": "+", "node": "n", "device": "a", "machine": "{group}/{node}/{device}"},
            ["P/n/a", "Q/n/a"],
        ),
    ],
    ids=["devices", "one device", "nodes", "groups"],
)
def test_births_of_sparkplug_give_a_table_of_their_metrics(
    addresses: list[str], keys: dict[str, str], machines: list[str]
) -> None:
    messages = births(*addresses)
    proposal = propose(messages)
    assert proposal.keys == {"source": "sparkplug", **keys}
    assert {name: value.table for name, value in proposal.values.items()} == {
        "motor_temp": {"metric": "Motor/Temp"},
        "runs": {"metric": "Runs", "features": ["last", "mean"]},
    }
    table = new_table("t", SignalsTable.model_validate({**proposal.table(), "min_coverage": 0}))
    for message in messages:
        list(table.receive(message.topic, message.payload, is_retained=False, now=1.8e9))
    assert sorted(table.machines) == proposal.machines == machines
    assert '"Serial": text that is neither a number nor one of several states' in proposal.left_out
    is_fixed = "+" not in (keys["node"], keys["device"])
    assert is_fixed == any(text.startswith("other nodes and devices: only one was") for text in proposal.left_out)


def test_sparkplug_without_births_or_beside_topics_is_named() -> None:
    data = births("P/NDATA/n", metrics=[{"alias": 1, "float_value": 7.5}])
    (left_out,) = propose(data).left_out
    assert left_out.startswith("Sparkplug nodes, because no birth with numbers came")
    assert propose([*data, *births("P/NBIRTH/m")]).keys["node"] == "+"
    proposal = propose([*heard(*PLAIN), *births("P/NBIRTH/n"), *heard(("spBv1.0/STATE/h", '{"timestamp":1,"up":1}'))])
    assert set(proposal.values) == {"vibration", "temperature", "state"}
    (other,) = proposal.more
    assert (other.keys["node"], set(other.values)) == ("n", {"motor_temp", "runs"})
    assert list(proposal.tables("state")) == ["state", "P"]
    assert propose([*heard(*PLAIN), *data]).left_out[-1] == left_out


@pytest.mark.parametrize(
    ("states", "numbers"),
    [
        ({"ON"}, {"OFF": 0, "ON": 1}),
        ({"Open", "Closed"}, {"Closed": 0, "Open": 1}),
        ({"Online"}, {"Offline": 0, "Online": 1}),
        ({"run", "idle", "fault"}, {"idle": 0, "fault": 1, "run": 2}),
    ],
)
def test_states_get_numbers(states: set[str], numbers: dict[str, int]) -> None:
    assert numbered(states) == numbers
