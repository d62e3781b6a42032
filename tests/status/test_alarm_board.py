from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from edge_agent.board.reading import BoardReading, Thermal, Throttle, ThrottleCause
from edge_agent.core.publications import Publication
from edge_agent.core.topics import Topics
from edge_agent.status.alarm_board import AlarmBoard
from edge_agent.status.alarms import AlarmName
from tests.helpers.support import BASE

FULL_DISK = BoardReading(disk_free_mb=50.0)
UNKNOWN = BoardReading()


class Bus:
    """A board's alarms as the broker holds them."""

    def __init__(self) -> None:
        self.retained: dict[str, dict[str, Any]] = {}
        self.publications: list[Publication] = []
        self.board = AlarmBoard(Topics("edgeai/v1", "hall1", "board1"), self._announce)

    def _announce(self, publication: Publication) -> None:
        self.publications.append(publication)
        name = publication.topic.removeprefix(f"{BASE}/alarm/")
        self.retained.pop(name, None)
        if publication.payload:
            self.retained[name] = json.loads(publication.payload)

    def look(
        self,
        now: float,
        *,
        session: str = "s1",
        reading: BoardReading = UNKNOWN,
        depth: int = 0,
        refused: int = 0,
        worker_excess: str | None = None,
    ) -> bool:
        return self.board.look(
            now,
            session=session,
            reading=reading,
            queue_depth=depth,
            overloaded_total=refused,
            worker_excess=worker_excess,
        )


@pytest.fixture
def bus(caplog: pytest.LogCaptureFixture) -> Bus:
    caplog.set_level(logging.CRITICAL)
    return Bus()


def test_what_is_raised_is_retained_with_the_fields_of_the_contract(bus: Bus) -> None:
    assert not bus.look(100.0, reading=FULL_DISK)
    assert bus.look(110.0, reading=FULL_DISK)
    (publication,) = bus.publications
    assert (publication.topic, publication.qos, publication.retain) == (f"{BASE}/alarm/disk-low", 1, True)
    alarm = bus.retained["disk-low"]
    assert set(alarm) == {"ts", "severity", "since", "message", "value", "session"}
    assert (alarm["severity"], alarm["value"], alarm["session"]) == ("critical", 50.0, "s1")
    assert alarm["since"] < alarm["ts"]
    assert bus.board.severities == {"disk-low": "critical"}


def test_heat_and_supply_are_told_as_the_board_has_them(bus: Bus) -> None:
    hot = BoardReading(
        thermal=Thermal(soc_c=81.0, limit_c=80.0),
        throttle=Throttle(now=True, causes=(ThrottleCause.THERMAL,), undervoltage_now=True),
    )
    for second in range(10):
        bus.look(100.0 + second, reading=hot)
    assert set(bus.retained) == {"overheating", "throttled", "undervoltage"}
    assert bus.retained["overheating"]["value"] == 81.0
    assert "thermal" in bus.retained["throttled"]["message"]


def test_what_is_over_leaves_nothing_behind(bus: Bus) -> None:
    bus.look(100.0, reading=FULL_DISK)
    bus.look(110.0, reading=FULL_DISK)
    bus.look(111.0, reading=UNKNOWN)
    assert bus.look(171.0, reading=UNKNOWN)
    assert bus.publications[-1] == Publication(topic=f"{BASE}/alarm/disk-low", payload=b"", retain=True)
    assert bus.board.severities == {}


def test_a_new_connection_gets_all_of_it_anew_and_an_end_to_what_an_earlier_process_left(bus: Bus) -> None:
    bus.look(100.0, reading=FULL_DISK)
    bus.look(110.0, reading=FULL_DISK)
    since = bus.retained["disk-low"]["since"]
    bus.retained = {"throttled": {"severity": "warning"}}
    bus.publications.clear()
    bus.board.publish_all(120.0, "s2", with_ends=True)
    assert set(bus.retained) == {"disk-low"}
    assert bus.retained["disk-low"]["session"] == "s2"
    assert bus.retained["disk-low"]["since"] == since
    assert {publication.topic for publication in bus.publications} == {f"{BASE}/alarm/{name}" for name in AlarmName}
    bus.publications.clear()
    bus.board.publish_all(122.0, "s2", with_ends=False)
    assert [publication.topic for publication in bus.publications] == [f"{BASE}/alarm/disk-low"]


def test_a_clock_that_is_set_late_tells_when_it_began(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    bus.look(100.0, reading=FULL_DISK)
    bus.look(110.0, reading=FULL_DISK)
    assert (bus.retained["disk-low"]["since"], bus.retained["disk-low"]["ts"]) == (None, None)
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    bus.board.publish_all(160.0, "s2", with_ends=True)
    assert bus.retained["disk-low"]["since"] == "2027-01-15T07:59:00.000Z"


def test_a_worker_that_dies_again_and_again(bus: Bus) -> None:
    for now in (1.0, 2.0):
        bus.board.worker_ended("exit code 1", now, is_out_of_memory=False)
    assert not bus.look(3.0)
    bus.board.worker_ended("killed by SIGKILL", 3.0, is_out_of_memory=False)
    assert bus.look(3.0)
    message = bus.retained["worker-crash-loop"]["message"]
    assert message.startswith("the worker ended 3 times within 10 minutes, at last killed by SIGKILL: ")
    assert not bus.look(602.5)
    assert bus.look(604.0)
    assert bus.retained == {}


def test_memory_is_low_where_the_kernel_ended_the_worker_for_it(bus: Bus) -> None:
    bus.board.worker_ended("killed by SIGKILL, the kernel was out of memory", 1.0, is_out_of_memory=True)
    bus.look(1.0)
    assert bus.look(11.0)
    alarm = bus.retained["memory-low"]
    assert alarm["severity"] == "critical"
    assert alarm["message"].startswith("the kernel ended the worker once within 10 minutes for want of memory: stop ")
    bus.look(602.0)
    assert bus.look(663.0)
    assert bus.retained == {}


def test_a_worker_that_holds_too_much_is_told_with_how_much(bus: Bus) -> None:
    bus.look(1.0, worker_excess="the worker holds 800 MB, 500 MB are all that it should need")
    assert bus.look(11.0, worker_excess="the worker holds 900 MB, 500 MB are all that it should need")
    alarm = bus.retained["memory-low"]
    assert alarm["severity"] == "warning"
    assert alarm["message"].startswith("the worker holds 900 MB, ")


def test_one_takeover_is_told_and_is_over_when_no_more_come(bus: Bus) -> None:
    bus.board.client_taken_over(10.0)
    assert bus.look(10.0)
    assert bus.retained["duplicate-client-id"]["severity"] == "critical"
    assert not bus.look(129.0)
    assert bus.look(131.0)


def test_a_session_of_the_process_before_is_no_other_agent_two_are(bus: Bus) -> None:
    for now in (1.0, 2.0, 3.0):
        bus.board.session_heard("that of the process before", now)
    assert not bus.look(3.0)
    bus.board.session_heard("another", 4.0)
    assert bus.look(4.0)
    assert "duplicate-client-id" in bus.retained


def test_two_sessions_of_others_a_day_apart_are_no_other_agent(bus: Bus) -> None:
    bus.board.session_heard("one", 1.0)
    bus.look(80_000.0)
    bus.board.session_heard("another", 80_000.0)
    assert not bus.look(80_001.0)


def test_made_up_sessions_do_not_fill_the_memory(bus: Bus) -> None:
    for number in range(10_000):
        bus.board.session_heard(str(number), 1.0)
    assert len(bus.board._sessions) <= 100


def test_refusals_while_some_wait_are_an_overload_once_they_last(bus: Bus) -> None:
    for second in range(30):
        assert not bus.look(float(second), depth=5, refused=second * 3)
    assert not bus.look(30.0, depth=5, refused=90)
    assert bus.look(31.0, depth=5, refused=93)
    assert bus.retained["queue-overload"]["severity"] == "warning"


def test_refusals_while_nobody_waits_are_the_callers_own(bus: Bus) -> None:
    for second in range(100):
        assert not bus.look(float(second), depth=0, refused=second * 3)


def test_an_overload_ends_when_nobody_was_refused_for_a_while(bus: Bus) -> None:
    for second in range(40):
        bus.look(float(second), depth=5, refused=second)
    assert "queue-overload" in bus.retained
    for second in range(40, 120):
        bus.look(float(second), depth=5, refused=39)
    assert bus.retained == {}


def test_an_alarm_that_comes_again_has_a_begin_of_its_own(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    begins = []
    for at in (0.0, 1000.0):
        monkeypatch.setattr(time, "time", lambda at=at: 1_800_000_000.0 + at)
        bus.board.client_taken_over(at)
        bus.look(at)
        begins.append(bus.retained["duplicate-client-id"]["since"])
        bus.look(at + 200)
    assert begins == ["2027-01-15T08:00:00.000Z", "2027-01-15T08:16:40.000Z"]
