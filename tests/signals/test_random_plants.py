"""What holds for the readings of any plant, whatever it sends."""

import json
import random
from itertools import pairwise
from typing import Any

import pytest

from edge_agent.core.signal_tables import SignalsTable
from edge_agent.signals.machine import Reading
from edge_agent.signals.signal_table import SignalTable, new_table
from tests.helpers.sparkplug import Payload

START = 1.8e9
MAX_AGE_S = 20.0
Message = tuple[float, str, bytes, bool]

TOPICS: dict[str, Any] = {
    "vib": {"topic": "p/+/vib", "max_age_s": MAX_AGE_S, "retained": True, "map": {"ON": 1}},
    "temp": {"topic": "p/+/temp", "path": ["v"], "time": ["ts"], "max_age_s": MAX_AGE_S, "optional": True},
}
METRICS: dict[str, Any] = {
    "vib": {"metric": "Vib", "max_age_s": MAX_AGE_S},
    "temp": {"metric": "Temp", "max_age_s": MAX_AGE_S, "optional": True},
}
NUMBERS = ["1", "2", "3.5", "null", "true", '"4"', "NaN", "1e308", "-1e308", "1e100", "-1e100", "[1]", "ON", "", "1_0"]


def table(dice: random.Random, *, is_sparkplug: bool) -> SignalTable:
    keys: dict[str, Any] = {
        "window_s": dice.choice([1, 7, 60]),
        "every_s": dice.choice([0, 1, 10]),
        "min_gap_s": dice.choice([0, 5, 20]),
        "min_coverage": dice.choice([0, 0.5]),
        "max_machines": 3,
        "forget_s": 60,
        "features": ["last", "mean", "min", "max", "std", "slope", "count", "age_s"],
        "trigger": {"on_change": ["vib"], "above": {"temp": 3}, "below": {"temp": 1}, "hysteresis": {"temp": 1}},
    }
    source = {"source": "sparkplug", "values": METRICS} if is_sparkplug else {"values": TOPICS}
    return new_table("pump", SignalsTable.model_validate(keys | source))


def plain_message(dice: random.Random, now: float) -> tuple[str, bytes]:
    machine, number = dice.choice(["a", "b", "", "$c", "x" * 200]), dice.choice(NUMBERS)
    if dice.random() < 0.5:
        return f"p/{machine}/vib", number.encode()
    return f"p/{machine}/temp", f'{{"v":{number},"ts":{now - dice.choice([0, 1, 100, -50])}}}'.encode()


def sparkplug_message(dice: random.Random, numbers: dict[str, int]) -> tuple[str, bytes]:
    node = dice.choice(["n1", "n2"])
    kind = dice.choices(["NBIRTH", "DBIRTH", "DDATA", "NDATA", "NDEATH", "DDEATH", "NCMD"], [2, 4, 12, 2, 1, 1, 1])[0]
    numbers[node] = 0 if kind == "NBIRTH" else numbers.get(node, 0) + (dice.random() < 0.97)
    names = ["Vib", "Temp", "", "bdSeq"]
    contents: list[dict[str, Any]] = [
        {"float_value": 1.5},
        {"double_value": 1e308},
        {"int_value": 2**32 - 1},
        {"string_value": "NaN"},
        {},
    ]
    metrics = [
        {"name": dice.choice(names), "alias": dice.choice([1, 2]), "datatype": dice.choice([0, 3, 9]), **content}
        for content in dice.choices(contents, k=dice.randrange(4))
    ]
    device = f"/{dice.choice('de')}" if kind.startswith("D") else ""
    payload = bytes(Payload(seq=numbers[node] % 256, metrics=metrics).SerializeToString())
    return f"spBv1.0/G/{kind}/{node}{device}", payload[: dice.choice([None] * 20 + [dice.randrange(9)])]


def messages_of(dice: random.Random, *, is_sparkplug: bool) -> list[Message]:
    now, messages, numbers = START, [], dict[str, int]()
    for _ in range(400):
        now += dice.choice([0, 0, 0.01, 0.3, 1, 1, 3, 30])
        topic, payload = sparkplug_message(dice, numbers) if is_sparkplug else plain_message(dice, now)
        messages.append((now, topic, payload, dice.random() < 0.1))
    return messages


def readings_of(seed: int, *, is_sparkplug: bool) -> list[Reading]:
    """The readings of a random plant, which are the same however often the clock is looked at."""
    dice = random.Random(seed)
    messages = messages_of(dice, is_sparkplug=is_sparkplug)
    live, replayed = (table(random.Random(seed), is_sparkplug=is_sparkplug) for _ in range(2))
    asked, again = list[Reading](), list[Reading]()
    for (at, topic, payload, is_retained), (next_at, *_) in pairwise(messages):
        asked += live.advance(at)
        made = list(live.receive(topic, payload, is_retained=is_retained, now=at))
        assert not (is_retained and made)
        asked += made
        asked += live.advance(dice.uniform(at, next_at))
        again += replayed.receive(topic, payload, is_retained=is_retained, now=at)
    asked += live.advance(messages[-1][0])
    again += replayed.advance(messages[-1][0])
    assert asked == again
    return asked


@pytest.mark.parametrize("is_sparkplug", [False, True], ids=["topics", "sparkplug"])
def test_readings_of_random_plants_are_finite_and_fresh_and_the_same_in_a_replay(*, is_sparkplug: bool) -> None:
    readings = [reading for seed in range(15) for reading in readings_of(seed, is_sparkplug=is_sparkplug)]
    assert len(readings) > 300
    for reading in readings:
        json.dumps(reading.input, allow_nan=False)
        for figures in reading.input.values():
            assert figures["last"] is not None or figures["age_s"] is None
            assert (figures["age_s"] or 0.0) <= MAX_AGE_S
