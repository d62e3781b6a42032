import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.clock import parse_timestamp
from edge_agent.core.messages import Message
from edge_agent.loader import load_config
from edge_agent.mqtt.link import MqttLink, Received
from edge_agent.signals.feed import CALM_S, MAX_TURN_S, MAX_WAITING, SAVE_NEW_MACHINE_S, Feed
from edge_agent.signals.machine import Reading
from edge_agent.signals.recorder import recorded_rows
from edge_agent.signals.values import MAX_PAYLOAD_BYTES
from tests.helpers.support import ECHO_CONFIG

CONFIG = (
    ECHO_CONFIG
    + """[signals.pump]
window_s = 60
every_s = 0
min_gap_s = 0
record_every_s = 0.000001
features = ["last"]
[signals.pump.values]
vib = { topic = "plant/+/vib", path = ["value"] }
[signals.pump.trigger]
on_change = ["vib"]
"""
)


class Plant:
    """A feed without a broker."""

    def __init__(self, folder: Path, config_text: str = CONFIG) -> None:
        (folder / "config.toml").write_text(config_text, "utf-8")
        (folder / "state").mkdir()
        config = load_config(folder / "config.toml")
        self.feed = Feed(config, MqttLink("control", config.mqtt, lambda _: None))

    def send(self, payload: bytes, topic: str = "plant/a/vib") -> None:
        message = Message(topic=topic, payload=payload, qos=0, packet_id=0, received_at=time.monotonic())
        self.feed._on_link_event(Received(link=self.feed.link, epoch=1, message=message))

    def readings(self) -> list[Any]:
        return [json.loads(reading.payload) for reading in self.feed.tick(time.monotonic())]

    @property
    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = self.feed.as_health(0.0)["signals"]["pump"]
        return health


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_a_flood_takes_a_turn_of_the_thread_and_then_waits_for_others(plant: Plant) -> None:
    payload = b'{"value":1,"x":[' + b",".join([b"1.5"] * 49_000) + b"]}"
    for _ in range(60):
        plant.send(payload)
    started_at = time.monotonic()
    plant.readings()
    turn_s = time.monotonic() - started_at
    assert turn_s < MAX_TURN_S + 0.5
    assert 0 < len(plant.feed._buffer._entries) < 60
    waiting = len(plant.feed._buffer._entries)
    plant.readings()
    assert len(plant.feed._buffer._entries) == waiting
    time.sleep(3 * turn_s)
    plant.readings()
    assert len(plant.feed._buffer._entries) < waiting


def test_the_first_reading_of_a_table_is_logged_once(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for number in range(3):
        plant.send(b'{"value":%d}' % number)
        plant.readings()
        time.sleep(0.05)
    assert [record.getMessage() for record in caplog.records] == ["first reading table=pump"]


@pytest.mark.expects_warning
def test_the_first_machine_that_is_too_many_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant = Plant(tmp_path, CONFIG.replace("window_s = 60", "window_s = 60\nmax_machines = 1"))
    for machine in "abcb":
        plant.send(b'{"value":1}', f"plant/{machine}/vib")
        plant.feed._resumes_at = 0.0
        plant.readings()
    logged = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert logged == ['machine refused table=pump machine="b": more than max_machines, or too long a name']


def test_a_machine_is_saved_soon_after_its_first_reading(plant: Plant) -> None:
    """A process that was killed would otherwise leave its last answer on the broker as a current one."""
    state = plant.feed._state_path
    for number in range(3):
        plant.send(b'{"value":%d}' % number)
        plant.readings()
        time.sleep(0.05)
    assert not state.exists()
    list(plant.feed.tick(time.monotonic() + SAVE_NEW_MACHINE_S))
    assert b'"a"' in state.read_bytes()
    state.unlink()
    time.sleep(0.05)
    list(plant.feed.tick(time.monotonic() + 2 * SAVE_NEW_MACHINE_S))
    assert not state.exists()


def test_what_is_not_taken_is_logged_once_with_its_machine_and_value(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for payload in (b'{"value":"9,5"}', b'{"value":"8,5"}', b"{", b'{"value":"9,5"}'):
        plant.send(payload)
        plant.readings()
        time.sleep(0.05)
    assert [record.getMessage() for record in caplog.records] == [
        'not taken table=pump machine="a" value=vib reason=decimal-comma content="{\\"value\\":\\"9,5\\"}"',
        'not taken table=pump machine="a" value=vib reason=bad-json content="{"',
    ]


def test_messages_are_read_in_the_order_of_their_arrival(plant: Plant) -> None:
    lasts: list[float] = []
    for number in range(2000):
        plant.send(b'{"value":%d}' % number)
    ends_at = time.monotonic() + 10
    while len(lasts) < 1999 and time.monotonic() < ends_at:
        lasts += [reading["vib"]["last"] for reading in plant.readings()]
    assert lasts == list(range(1, 2000))


@pytest.mark.parametrize("start_off_s", [0, -3600, 3600, -1.8e9])
def test_rows_have_the_time_of_day_even_if_the_clock_was_set_after_the_start(plant: Plant, start_off_s: float) -> None:
    plant.feed._buffer.offset += start_off_s
    for payload in (b'{"value":1}', b'{"value":2}'):
        plant.send(payload)
    assert len(plant.readings()) == 1
    (row,) = recorded_rows(plant.feed._state_path.parent, "pump")
    assert parse_timestamp(row["ts"]) == pytest.approx(time.time(), abs=5)


def test_a_lost_connection_is_noticed_however_many_messages_come_after_it(plant: Plant) -> None:
    plant.send(b'{"value":1}')
    plant.readings()
    plant.feed._buffer.put(None)
    for _ in range(MAX_WAITING + 7):
        plant.send(b'{"value":1}', topic="plant/b/vib")
    assert plant.health["dropped_total"] == 7
    ends_at = time.monotonic() + 10
    while plant.feed._buffer._entries and time.monotonic() < ends_at:
        plant.readings()
    assert plant.health["waiting"] == 1  # Machine a lacks its value again.


def test_refusals_are_not_repeated_while_the_connection_is_lost(plant: Plant) -> None:
    first = Reading("pump", "a", "every", 0.0, {}, ("vib: missing: no message since the connection was lost",))
    asked = list(plant.feed._messages([first, replace(first, is_repeated=True)]))
    assert [message.is_fault_repeated for message in asked] == [False]


def test_messages_that_come_too_fast_are_dropped_and_counted(plant: Plant) -> None:
    for number in range(MAX_WAITING + 7):
        plant.send(b'{"value":%d}' % number)
    assert plant.health["dropped_total"] == 7


@pytest.mark.expects_warning
def test_after_dropped_messages_values_that_hold_for_ever_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reconnects(more: str) -> list[int]:
        folder = tmp_path / (more or "plain")
        folder.mkdir()
        plant = Plant(folder, CONFIG.replace('path = ["value"]', f'path = ["value"]{more}'))
        found = list[int]()
        monkeypatch.setattr(plant.feed.link, "reconnect", lambda: found.append(plant.health["dropped_total"]))
        now = time.monotonic()

        def tick(at: float, messages: int = 0) -> bool:
            for _ in range(messages):
                plant.send(b"")
            plant.feed._resumes_at = 0.0
            list(plant.feed.tick(now + at))
            return plant.feed._reconnects_at < math.inf

        is_stale = [tick(0, MAX_WAITING + 1), tick(CALM_S - 1, 2 * MAX_WAITING), tick(2 * CALM_S - 2)]
        assert is_stale == 3 * [bool(more)]
        # What the new connection brings may be too much as well, so the next one comes later.
        again = 2 * CALM_S - 1
        assert [tick(again), tick(again + 1, 2 * MAX_WAITING)] == [False, bool(more)]
        assert [tick(again + 2 * CALM_S), tick(again + 2 * CALM_S + 1)] == [bool(more), False]
        return found

    assert len(reconnects(", max_age_s = 0")) == 2
    assert reconnects("") == []


def test_a_payload_that_is_too_long_does_not_push_others_out(plant: Plant) -> None:
    plant.send(b'{"value":1}')
    plant.send(b"1" * 20 * MAX_PAYLOAD_BYTES)
    plant.send(b'{"value":2}')
    assert [reading["vib"]["last"] for reading in plant.readings()] == [2]
    assert plant.health["not_taken"] == {"too-long": 1}


@pytest.mark.parametrize("number", ["1e308", "-1e308", "1e400", "NaN", "Infinity", "-1e155", '"1e200"', "1" * 400])
def test_no_number_of_a_plant_stops_the_readings(plant: Plant, number: str) -> None:
    lasts = []
    for text in ("1", number, "2", number, "3"):
        plant.send(f'{{"value":{text}}}'.encode())
    lasts += [reading["vib"]["last"] for reading in plant.readings()]
    assert lasts == [2, 3]
    assert all(map(math.isfinite, lasts))
