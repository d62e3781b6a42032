from collections.abc import Iterator

import pytest

from edge_agent.core.config import Config
from edge_agent.core.messages import Message
from edge_agent.core.signal_tables import MAX_VALUES, SignalsTable
from edge_agent.signals.discovery import numbered, propose
from edge_agent.signals.signal_table import new_table
from edge_agent.tools.toml import toml
from tests.helpers.support import config

PLAIN = [
    (f"plant/pump-{number}/{name}", payload)
    for number in (7, 8)
    for name, payload in (("vibration", "7.5"), ("temperature", '{"value":61,"ts":17}'), ("state", "ON"))
]


def heard(*messages: tuple[str, str]) -> Iterator[Message]:
    for topic, payload in messages:
        yield Message(topic=topic, payload=payload.encode(), qos=0, packet_id=0, received_at=0.0)


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
    ids=["two machines", "one machine", "no digits", "Zigbee2MQTT", "Tasmota", "two levels", "Kepware"],
)
def test_a_table_is_proposed_that_reads_what_was_heard(
    messages: list[tuple[str, str]], machine: str, machines: list[str], topics: set[str]
) -> None:
    proposal = propose(heard(*messages))
    assert proposal is not None
    assert (proposal.machine, proposal.machines) == (machine, machines)
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


def test_the_proposal_is_a_configuration() -> None:
    proposal = propose(heard(*PLAIN))
    assert proposal is not None
    tables = "".join(f"{name} = {toml(value)}\n" for name, value in proposal.table()["values"].items())
    settings: Config = config(f"[signals.{proposal.name}]\n[signals.{proposal.name}.values]\n{tables}")
    assert settings.signals["plant"].field_names()[:2] == ["state.last", "state.mean_10m"]
    assert proposal.values["state"].table == {
        "topic": "plant/+/state",
        "map": {"OFF": 0, "ON": 1},
        "max_age_s": 0,
        "retained": True,
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
    assert proposal is not None
    SignalsTable.model_validate(proposal.table())


def test_texts_that_are_neither_numbers_nor_states_are_left_out() -> None:
    assert propose(heard()) is None
    assert (
        propose(heard(*((f"plant/a/log{n}", f"pump started at {n} by somebody in a hurry") for n in range(9)))) is None
    )
    assert propose(heard(("a/b", "\0"), ("a/b", "{"))) is None


def test_a_proposal_fits_into_a_table_and_its_names_are_unique() -> None:
    pairs = [(f"plant/p{number}/x{value}/temp", "1") for number in (1, 2) for value in range(40)]
    proposal = propose(heard(*pairs))
    assert proposal is not None
    assert len(proposal.values) <= MAX_VALUES


@pytest.mark.parametrize(
    ("states", "numbers"),
    [
        ({"ON"}, {"OFF": 0, "ON": 1}),
        ({"Open", "Closed"}, {"Closed": 0, "Open": 1}),
        ({"run", "idle", "fault"}, {"idle": 0, "fault": 1, "run": 2}),
    ],
)
def test_states_get_numbers(states: set[str], numbers: dict[str, int]) -> None:
    assert numbered(states) == numbers
