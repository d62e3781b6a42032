"""Messages of a site go in, rows of its boards come out."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.messages import Message
from edge_agent.tools.watch.site import BoardLevel, Row, Site, may_come_back, number_at, row_document
from tests.tools.watch import boards
from tests.tools.watch.boards import WALL
from tests.tools.watch.scenes import plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
REAL: dict[str, Any] = json.loads(boards.health())
FIELDS = [
    (table, field) for table, fields in REAL.items() for field in (fields if isinstance(fields, dict) else [None])
]


class Bus:
    """A site whose boards say something at a time, in seconds since the connection."""

    def __init__(self, expected: Sequence[str] = ()) -> None:
        self.site = Site("edgeai/v1", "hall1", expected=expected)

    def say(self, at: float, topic: str, payload: bytes, *, device: str = "board1", **properties: Any) -> None:
        self.say_on(at, f"edgeai/v1/hall1/{device}/{topic}", payload, **properties)

    def say_on(self, at: float, topic: str, payload: bytes, *, retained: bool = False, **properties: Any) -> None:
        given = {"qos": 1, "packet_id": 1, "is_retained": retained, "received_at": 1000.0 + at, **properties}
        self.site.receive(Message(topic=topic, payload=payload, **given), WALL + at)

    def row(self, at: float) -> Row:
        (row,) = self.site.rows(1000.0 + at)
        return row

    def level(self, at: float) -> BoardLevel:
        return self.row(at).level

    def devices(self, at: float) -> list[str]:
        return [row.device for row in self.site.rows(1000.0 + at)]


@pytest.fixture
def bus() -> Bus:
    return Bus()


def online(bus: Bus, at: float = 0.0, session: str = "s1", **changes: Any) -> None:
    bus.say(at, "state", boards.state(session=session, connected_at=WALL + at))
    bus.say(at, "health", boards.health(1, session, at=WALL + at, **changes), expiry_s=30)


def test_a_healthy_board_has_level_ok_and_its_figures(bus: Bus) -> None:
    online(bus)
    bus.say(0, "info", boards.info())
    row = bus.row(1)
    assert (row.level, row.why, row.alarms) == (BoardLevel.OK, (), ())
    assert row.model == "qwen2.5-0.5b"
    document = row_document(row)
    assert (document["state"]["session"], document["health"]["thermal"]["soc_c"]) == ("s1", 61.5)
    assert document["info"]["board"]["model"] == "Raspberry Pi 5 Model B"


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"overall": "critical", "reasons": ["model-not-loaded"]}, BoardLevel.CRITICAL),
        ({"overall": "degraded", "reasons": ["queue-full"]}, BoardLevel.DEGRADED),
        ({"thermal__throttled_now": True}, BoardLevel.DEGRADED),
        ({"power__undervoltage_now": True}, BoardLevel.DEGRADED),
        ({"thermal__throttled_since_boot": True}, BoardLevel.OK),
        ({"overall": "splendid"}, BoardLevel.UNKNOWN),
        ({"thermal": []}, BoardLevel.OK),
    ],
)
def test_its_health_decides_the_level(bus: Bus, changes: dict[str, Any], level: BoardLevel) -> None:
    online(bus, **changes)
    assert bus.level(1) is level


def test_reasons_and_the_governor_are_shown(bus: Bus) -> None:
    online(
        bus,
        overall="degraded",
        reasons=["queue-full", "sensor-errors"],
        governor={"level": "hot", "limits": {}, "reason": "82 °C"},
        sensor_errors={"gpu-thermal": "EAGAIN"},
    )
    assert bus.row(1).why == ("sensors that cannot be read: gpu-thermal", "queue-full", "governor hot: 82 °C")


def test_health_of_more_than_three_intervals_ago_is_stale_and_no_figure_is_shown(bus: Bus) -> None:
    online(bus)
    assert bus.level(30) is BoardLevel.OK
    row = bus.row(30.1)
    assert (row.level, row.health) == (BoardLevel.STALE, {})
    assert row.why == ("last health 30 s ago, due every 10 s",)
    assert row_document(row)["health"] is None


def test_the_interval_is_the_boards_own(bus: Bus) -> None:
    bus.say(0, "info", boards.info(60.0))
    online(bus)
    assert (bus.level(180), bus.level(180.1)) == (BoardLevel.OK, BoardLevel.STALE)


@pytest.mark.parametrize("topics", [("info", "state", "health"), ("health", "info", "state")])
def test_the_expiry_of_retained_health_gives_its_age_whatever_the_clocks(bus: Bus, topics: tuple[str, ...]) -> None:
    said = {"info": boards.info(10), "state": boards.state(), "health": boards.health(at=WALL - 9999)}
    for topic in topics:
        bus.say(0, topic, said[topic], retained=True, expiry_s=12 if topic == "health" else None)
    assert bus.row(0).health_age_s == 18
    assert bus.level(12) is BoardLevel.OK
    assert bus.level(12.1) is BoardLevel.STALE


def test_retained_health_without_an_expiry_is_as_old_as_its_time(bus: Bus) -> None:
    bus.say(0, "state", boards.state(), retained=True)
    bus.say(0, "health", boards.health(at=WALL - 9999), retained=True)
    assert bus.level(0) is BoardLevel.STALE
    bus.say(1, "health", boards.health(2, at=WALL - 9998))
    assert bus.level(1) is BoardLevel.OK


@pytest.mark.parametrize("at", [None, WALL + 60])
def test_retained_health_of_unknown_age_is_not_shown(bus: Bus, at: float | None) -> None:
    bus.say(0, "state", boards.state(), retained=True)
    bus.say(0, "health", boards.health(at=at), retained=True)
    row = bus.row(4)
    assert (row.level, row.health) == (BoardLevel.STALE, {})
    clock = "the age of its last health is unknown, because its clock is unset or ahead of this machine's"
    assert row.why == (clock,)


def test_a_board_that_is_online_without_health_is_stale_after_a_moment(bus: Bus) -> None:
    bus.say(0, "state", boards.state())
    assert bus.level(0.1) is BoardLevel.UNKNOWN
    assert (bus.level(3.1), bus.row(3.1).why) == (BoardLevel.STALE, ("no health on the bus",))


@pytest.mark.parametrize(
    ("name", "reason", "level"),
    [
        ("offline", "connection-lost", BoardLevel.OFFLINE),
        ("stopped", "SIGTERM", BoardLevel.STOPPED),
        ("draining", "drain command", BoardLevel.DRAINING),
        ("offline", "starting", BoardLevel.STARTING),
    ],
)
def test_states_have_levels_of_their_own(bus: Bus, name: str, reason: str, level: BoardLevel) -> None:
    online(bus)
    bus.say(1, "state", boards.state(name, reason=reason))
    assert bus.level(4) is level
    assert (not bus.row(4).health) == (level in (BoardLevel.OFFLINE, BoardLevel.STOPPED))


def test_a_board_that_restarts_repeatedly_shows_its_restarts(bus: Bus) -> None:
    online(bus, overall="critical", reasons=["model-not-loaded"], worker__restarts=4, uptime_s=300.0)
    bus.say(1, "state", boards.state("offline", reason="starting"))
    assert bus.row(2).why == ("worker restarts: 4", "model-not-loaded")


def test_the_will_of_the_living_session_is_believed(bus: Bus) -> None:
    online(bus)
    bus.say(5, "state", boards.will())
    # Until then it may be the broker that stops.
    assert (bus.level(7), bus.level(8)) == (BoardLevel.OK, BoardLevel.OFFLINE)
    assert bus.row(8).why == ("connection-lost", "last health 8 s ago")


def test_an_alarm_counts_only_in_the_session_of_the_state(bus: Bus) -> None:
    online(bus)
    bus.say(1, "alarm/disk-low", boards.alarm("3 MB"))
    bus.say(1, "alarm/overheating", boards.alarm("84 °C", severity="critical"))
    bus.say(1, "alarm/throttled", boards.alarm("of an earlier session", session="s0"))
    assert bus.level(2) is BoardLevel.CRITICAL
    assert [name for name, _ in bus.row(2).alarms] == ["overheating", "disk-low"]
    bus.say(3, "alarm/overheating", b"")
    assert bus.level(4) is BoardLevel.DEGRADED
    bus.say(5, "state", boards.will())
    assert bus.row(8).alarms == ()


@pytest.mark.parametrize(("name", "reason"), [("draining", "drain"), ("offline", "model-load-failed: no such file")])
def test_an_alarm_counts_also_while_the_board_takes_no_requests(bus: Bus, name: str, reason: str) -> None:
    online(bus)
    bus.say(1, "alarm/model-load-failed", boards.alarm("no model can be used", severity="critical"))
    bus.say(2, "state", boards.state(name, reason=reason))
    assert [alarm for alarm, _ in bus.row(3).alarms] == ["model-load-failed"]
    bus.say(4, "state", boards.state("stopped"))
    assert bus.row(5).alarms == ()


def test_a_reason_that_is_an_alarm_is_shown_once(bus: Bus) -> None:
    online(bus, overall="degraded", reasons=["disk-low"])
    bus.say(1, "alarm/disk-low", boards.alarm("3 MB"))
    assert (bus.row(2).why, row_document(bus.row(2))["why"]) == ((), ["disk-low"])


def test_what_is_critical_comes_first_for_scripts(bus: Bus) -> None:
    severity = {"promise-unproven": 1, "data-connection-lost": 2}
    online(bus, overall="critical", reasons=["data-connection-lost", "promise-unproven"], severity=severity)
    bus.say(1, "alarm/disk-low", boards.alarm("3 MB"))
    bus.say(1, "alarm/worker-silent", boards.alarm("for 30 s", severity="critical"))
    document = row_document(bus.row(2))
    assert document["why"] == ["worker-silent", "data-connection-lost", "disk-low", "promise-unproven"]
    assert document["advice"][0].startswith("wait, the worker is ended")


def test_a_board_is_kept_when_its_broker_comes_back_without_it(bus: Bus) -> None:
    online(bus)
    bus.say(1, "info", boards.info())
    bus.say(1, "alarm/disk-low", boards.alarm("3 MB"))
    bus.site.on_connected(1100.0)
    assert [row.device for row in bus.site.rows(1100.0)] == ["board1"]
    # It may have to connect again, too, so it is not offline yet, and no journal says so.
    awaited = (BoardLevel.UNKNOWN, ("not heard yet on this connection to the broker",))
    assert (bus.row(104).level, bus.row(104).why) == awaited
    row = bus.row(121)
    assert (row.level, row.alarms, row.model) == (BoardLevel.OFFLINE, (), "qwen2.5-0.5b")
    assert row.why == ("last heard 2 min ago, and its broker has lost what it said",)
    online(bus, 125)
    assert bus.level(126) is BoardLevel.OK


def test_what_the_broker_says_for_a_board_does_not_count_as_hearing_it(bus: Bus) -> None:
    bus.say(0, "state", boards.will(), retained=True)
    bus.say(5, "state", boards.will())
    assert bus.level(10) is BoardLevel.OFFLINE
    bus.site.on_connected(1100.0)
    assert bus.row(121).why == ("it is unknown when it was last heard, and its broker has lost what it said",)
    bus.say(130, "state", boards.state(), retained=True)
    bus.say(130, "health", boards.health(at=WALL + 60), retained=True)
    bus.site.on_connected(1140.0)
    assert bus.row(161).why == ("last heard 101 s ago, and its broker has lost what it said",)


def test_a_board_that_an_earlier_process_heard_is_kept_until_it_is_removed(bus: Bus) -> None:
    bus.site.remember("board1", 1000.0, 600.0)
    bus.site.on_connected(1000.0)
    assert (bus.level(5), bus.level(20)) == (BoardLevel.UNKNOWN, BoardLevel.OFFLINE)
    assert bus.row(21).why == ("last heard 10 min ago, and its broker has lost what it said",)
    bus.say(30, "state", b"")
    assert bus.devices(31) == []


def test_a_board_that_an_earlier_process_heard_is_not_stale_while_its_broker_comes_back(bus: Bus) -> None:
    bus.site.remember("board1", 1000.0, 600.0)
    bus.site.on_connected(1000.0)
    bus.say(0, "state", boards.state(), retained=True)
    assert (bus.level(5), bus.level(20)) == (BoardLevel.UNKNOWN, BoardLevel.STALE)


def test_who_has_been_connected_for_longer_proves_that_the_broker_has_not_just_come_back(bus: Bus) -> None:
    bus.say(0, "state", boards.state(), device="board2", retained=True)
    online(bus, mqtt__connected_s=0.0)
    assert [may_come_back(bus.site.rows(1000.0 + at)) for at in (0, 5, 21)] == [False, True, False]


def test_the_silence_of_a_board_counts_only_while_its_broker_is_heard(bus: Bus) -> None:
    online(bus)
    (row,) = bus.site.rows(1100.0, 1020.0)
    assert (row.level, row.health_age_s) == (BoardLevel.OK, 100)
    bus.site.on_connected(1100.0, 1020.0)
    bus.say(100, "state", boards.state(), retained=True)
    assert [bus.level(at) for at in (101, 121)] == [BoardLevel.UNKNOWN, BoardLevel.STALE]


def test_a_living_board_is_not_offline_while_its_broker_comes_back(bus: Bus) -> None:
    online(bus)
    bus.site.on_connected(1005.0)
    assert [bus.level(at) for at in (6, 9, 31)] == [BoardLevel.OK, BoardLevel.UNKNOWN, BoardLevel.OFFLINE]


@pytest.mark.parametrize("level", [BoardLevel.OK, BoardLevel.OFFLINE])
def test_the_wills_of_a_broker_that_stops_count_only_if_boards_do_not_come_back(bus: Bus, level: BoardLevel) -> None:
    online(bus)
    bus.say(5, "state", boards.will())
    bus.site.on_lost()
    assert bus.level(10) is BoardLevel.OK
    bus.site.on_connected(1012.0, 1005.0)
    bus.say(12, "state", boards.will(), retained=True)
    assert (bus.level(13), bus.level(31)) == (BoardLevel.OK, BoardLevel.UNKNOWN)
    if level is BoardLevel.OK:
        online(bus, 31)
    assert bus.level(32) is level
    # Meanwhile, one that was offline before is not well again.
    bus.site.on_connected(1033.0)
    bus.say(33, "state", boards.will(), retained=True)
    assert bus.level(34) is level


def test_what_the_broker_sends_again_stays(bus: Bus) -> None:
    online(bus)
    bus.site.on_connected(1005.0)
    bus.say(5, "state", boards.state(), retained=True)
    assert (bus.level(9), bus.level(31)) == (BoardLevel.OK, BoardLevel.STALE)


def test_a_silent_board_without_a_state_is_kept_as_stale(bus: Bus) -> None:
    bus.say(0, "health", boards.health())
    assert bus.level(40) is BoardLevel.STALE


def test_expected_boards_are_missing_until_they_are_heard() -> None:
    bus = Bus(expected=["board1", "board2"])
    assert {row.level for row in bus.site.rows(1000.0)} == {BoardLevel.UNKNOWN}
    assert {row.why for row in bus.site.rows(1000.0)} == {("not heard yet: no connection to the broker",)}
    bus.site.on_connected(1000.0)
    assert {row.why for row in bus.site.rows(1001.0)} == {("not heard yet on this connection to the broker",)}
    online(bus)
    assert bus.devices(4) == ["board2", "board1"]
    missing, heard = bus.site.rows(1004.0)
    assert (missing.level, heard.level) == (BoardLevel.MISSING, BoardLevel.OK)
    assert row_document(missing)["why"] == ["nothing heard of it"]
    for topic in ("state", "health"):
        bus.say(5, topic, b"")
    assert {row.level for row in bus.site.rows(1006.0)} == {BoardLevel.MISSING}


def test_an_expected_board_that_was_not_heard_is_missing_once_nobody_waits_any_longer() -> None:
    site = Bus(expected=["board1"]).site
    site.settle()
    assert site.rows(1000.0)[0].level is BoardLevel.UNKNOWN
    site.on_connected(1000.0)
    assert site.rows(1001.5)[0].level is BoardLevel.UNKNOWN
    site.settle()
    assert site.rows(1001.5)[0].level is BoardLevel.MISSING


def test_the_time_of_a_level_counts_from_its_change(bus: Bus) -> None:
    online(bus)
    assert bus.row(1).level_age_s is None
    bus.say(5, "state", boards.will())
    assert bus.row(8).level_age_s == 0
    assert bus.row(68).level_age_s == 60


def test_a_level_that_may_be_older_than_the_connection_has_no_time(bus: Bus) -> None:
    online(bus)
    assert bus.level(0.1) is BoardLevel.OK
    bus.say(0.2, "alarm/disk-low", boards.alarm("3 MB"), retained=True)
    assert (bus.row(0.3).level, bus.row(20).level_age_s) == (BoardLevel.DEGRADED, None)
    bus.site.on_connected(1100.0)
    assert [bus.row(at).level_age_s for at in (101, 121, 200)] == [None, None, None]
    assert bus.level(200) is BoardLevel.OFFLINE


def test_the_model_is_the_bundle_in_force(bus: Bus) -> None:
    online(bus)
    bus.say(0, "info", boards.encoded({"models": [{"name": "default", "folder": "pumps-2", "version": 2}]}))
    assert bus.row(1).model == "pumps-2 v2"


def test_a_board_whose_topics_were_cleared_is_gone(bus: Bus) -> None:
    online(bus)
    bus.say(1, "info", boards.info())
    for topic in ("state", "health", "info"):
        bus.say(2, topic, b"")
    assert bus.devices(3) == []


def test_a_stopped_board_is_gone_once_state_and_info_are_cleared(bus: Bus) -> None:
    online(bus)
    bus.say(1, "info", boards.info())
    bus.say(1, "state", boards.state("stopped"))
    for topic in ("state", "info"):
        bus.say(2, topic, b"")
    assert bus.devices(3) == []


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("state", boards.state("fine")),
        ("health", b"\x00garbage"),
        ("alarm/throttled", b'{"a":NaN}'),
        ("alarm/throttled", boards.alarm("x" * 20_000)),
        ("info", b" " * 2_000_000),
        ("info", b"\xff\xfe"),
        ("info", b"[]"),
    ],
)
def test_an_unreadable_document_is_reported_and_the_one_before_stays(bus: Bus, topic: str, payload: bytes) -> None:
    online(bus)
    bus.say(1, topic, payload)
    row = bus.row(2)
    assert row.level is BoardLevel.DEGRADED
    assert row.state
    assert row.health
    assert row.why[0].startswith(f"{topic} cannot be read: ")
    good = {"state": boards.state(), "health": boards.health(2), "info": boards.info()}
    bus.say(3, topic, good.get(topic, b""))
    assert bus.level(4) is BoardLevel.OK


def test_an_unreadable_document_alone_makes_an_unknown_board(bus: Bus) -> None:
    bus.say(0, "health", b"42", retained=True)
    assert bus.level(5) is BoardLevel.UNKNOWN


def test_the_worst_board_comes_first_then_by_name(bus: Bus) -> None:
    online(bus)
    for device, overall in (("z", "ok"), ("a", "ok"), ("m", "critical"), ("d", "degraded")):
        bus.say(0, "state", boards.state(), device=device)
        bus.say(0, "health", boards.health(overall=overall), device=device)
    bus.say(0, "state", boards.will(), device="off")
    assert bus.devices(3) == ["off", "m", "d", "a", "board1", "z"]


def test_other_topics_and_other_sites_are_ignored(bus: Bus) -> None:
    for topic in ("edgeai/v1/hall2/b/state", "edgeai/v1/hall1/b/event/x", "edgeai/v1/hall1/state", "x"):
        bus.say_on(0, topic, boards.state())
    assert bus.devices(1) == []


@given(value=JSON, topic=st.sampled_from(["state", "info", "health", "alarm/x"]), place=st.sampled_from(FIELDS))
def test_a_wrong_document_costs_at_most_its_field(value: Any, topic: str, place: tuple[str, str | None]) -> None:
    bus = Bus()
    online(bus)
    bus.say(0, "info", boards.info())
    table, field = place
    document = (
        {**REAL, table: value if field is None else {**REAL[table], field: value}} if topic == "health" else value
    )
    bus.say(0, topic, json.dumps(document).encode())
    row_document(bus.row(1))
    assert plain(bus.site)


@pytest.mark.parametrize("value", [1e300, [61], {"c": 61}, 10**200, None])
def test_an_absurd_figure_is_unknown(value: Any) -> None:
    assert number_at({"thermal": {"soc_c": value}}, "thermal.soc_c") is None
