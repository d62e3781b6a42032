from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.status.alarms import REFRESH_S, AlarmFacts, AlarmName, Alarms, Severity

WELL = AlarmFacts(
    soc_c=50.0,
    limit_c=85.0,
    is_throttled=False,
    is_undervoltage=False,
    memory_total_mb=4000.0,
    memory_available_mb=2000.0,
    disk_free_mb=9000.0,
)
WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL


def facts(**fields: Any) -> AlarmFacts:
    return AlarmFacts(**{**{name: getattr(WELL, name) for name in AlarmFacts.__dataclass_fields__}, **fields})


class Watch:
    """Alarms that are asked once a second."""

    def __init__(self) -> None:
        self.alarms = Alarms()
        self.now = 100.0
        self.changes: list[tuple[float, str, str | None]] = []
        self.refreshes: list[float] = []

    def run(self, seconds: float, **fields: Any) -> Watch:
        for _ in range(round(seconds)):
            changed, refreshed = self.alarms.update(facts(**fields), self.now)
            for name in changed:
                alarm = self.alarms.raised.get(name)
                self.changes.append((self.now - 100, name.value, alarm.severity.value if alarm else None))
            self.refreshes += [self.now - 100 for _ in refreshed]
            self.now += 1
        return self

    def severity(self, name: AlarmName) -> Severity | None:
        alarm = self.alarms.raised.get(name)
        return alarm.severity if alarm else None


def test_a_board_that_is_well_raises_nothing() -> None:
    assert Watch().run(100).changes == []


def test_a_board_that_can_tell_nothing_raises_nothing() -> None:
    unknown = dict.fromkeys(("soc_c", "limit_c", "is_throttled", "is_undervoltage", "memory_total_mb"))
    assert Watch().run(100, **unknown, memory_available_mb=None, disk_free_mb=None).changes == []


@pytest.mark.parametrize(
    ("fields", "name", "severity"),
    [
        ({"soc_c": 82.0}, AlarmName.OVERHEATING, WARNING),
        ({"soc_c": 85.0}, AlarmName.OVERHEATING, CRITICAL),
        ({"is_throttled": True}, AlarmName.THROTTLED, WARNING),
        ({"is_undervoltage": True}, AlarmName.UNDERVOLTAGE, CRITICAL),
        ({"memory_available_mb": 199.0}, AlarmName.MEMORY_LOW, WARNING),
        ({"memory_available_mb": 99.0}, AlarmName.MEMORY_LOW, CRITICAL),
        ({"memory_total_mb": 1000.0, "memory_available_mb": 101.0}, None, None),
        ({"memory_total_mb": 1000.0, "memory_available_mb": 99.0}, AlarmName.MEMORY_LOW, WARNING),
        ({"memory_total_mb": 64000.0, "memory_available_mb": 501.0}, None, None),
        ({"memory_total_mb": None, "memory_available_mb": 49.0}, AlarmName.MEMORY_LOW, CRITICAL),
        ({"disk_free_mb": 499.0}, AlarmName.DISK_LOW, WARNING),
        ({"disk_free_mb": 0.0}, AlarmName.DISK_LOW, CRITICAL),
        ({"worker_ends_lately": 2}, None, None),
        ({"worker_ends_lately": 3}, AlarmName.WORKER_CRASH_LOOP, CRITICAL),
        ({"quality_fault": "canary 3 differs"}, AlarmName.MODEL_QUALITY, CRITICAL),
        ({"takeovers_lately": 1}, AlarmName.DUPLICATE_CLIENT_ID, CRITICAL),
        ({"refusals_lately": 1}, AlarmName.QUEUE_OVERLOAD, WARNING),
    ],
)
def test_what_is_wrong_raises_its_alarm(fields: Any, name: AlarmName | None, severity: Severity | None) -> None:
    raised = Watch().run(60, **fields).alarms.raised
    assert {found: alarm.severity for found, alarm in raised.items()} == ({name: severity} if name else {})


def test_each_alarm_says_what_to_do() -> None:
    watch = Watch().run(
        60, soc_c=90.0, is_throttled=True, throttle_causes=("thermal",), is_undervoltage=True, memory_available_mb=1.0,
        disk_free_mb=1.0, worker_ends_lately=5, quality_fault="canary 3 differs: go back", takeovers_lately=1,
        refusals_lately=9,
    )  # fmt: skip
    assert set(watch.alarms.raised) == set(AlarmName)
    assert all(": " in alarm.message for alarm in watch.alarms.raised.values())
    assert "(thermal)" in watch.alarms.raised[AlarmName.THROTTLED].message


def test_a_moment_raises_nothing_and_what_lasts_is_told_with_its_begin() -> None:
    watch = Watch().run(9, disk_free_mb=200.0).run(1).run(9, disk_free_mb=200.0).run(1)
    assert watch.changes == []
    begin = watch.now
    watch.run(20, disk_free_mb=200.0)
    assert watch.changes == [(begin - 100 + 10, "disk-low", "warning")]
    assert watch.alarms.raised[AlarmName.DISK_LOW].since == begin


def test_the_supply_is_told_of_at_once() -> None:
    assert Watch().run(1, is_undervoltage=True).changes == [(0, "undervoltage", "critical")]


def test_an_alarm_ends_only_when_its_cause_is_surely_over() -> None:
    watch = Watch().run(11, disk_free_mb=200.0)
    for _ in range(10):
        watch.run(59).run(1, disk_free_mb=200.0)
    assert watch.severity(AlarmName.DISK_LOW) is WARNING
    watch.run(70)
    assert [what for _, _, what in watch.changes] == ["warning", None]


def test_a_value_at_its_threshold_does_not_flap() -> None:
    watch = Watch().run(11, disk_free_mb=499.0)
    for _ in range(20):
        watch.run(100, disk_free_mb=501.0).run(100, disk_free_mb=499.0)
    watch.run(11, disk_free_mb=99.0)
    for _ in range(20):
        watch.run(100, disk_free_mb=101.0).run(100, disk_free_mb=99.0)
    assert [what for _, _, what in watch.changes] == ["warning", "critical"]
    watch.run(100, disk_free_mb=130.0).run(100, disk_free_mb=630.0)
    assert [what for _, _, what in watch.changes] == ["warning", "critical", "warning", None]


def test_heat_does_not_flap_either() -> None:
    watch = Watch()
    for _ in range(20):
        watch.run(40, soc_c=82.5).run(40, soc_c=81.5)
    for _ in range(20):
        watch.run(40, soc_c=85.1).run(40, soc_c=84.9)
    watch.run(40, soc_c=83.0).run(40, soc_c=78.0)
    assert [what for _, _, what in watch.changes] == ["warning", "critical", "warning", None]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"soc_c": 82.5}, {"soc_c": 85.5}),
        ({"disk_free_mb": 300.0}, {"disk_free_mb": 90.0}),
        ({"memory_available_mb": 190.0}, {"memory_available_mb": 90.0}),
        ({"soc_c": 60.0}, {"soc_c": 90.0}),
    ],
)
def test_what_jumps_each_second_is_told_once(good: dict[str, float], bad: dict[str, float]) -> None:
    watch = Watch().run(20, **bad)
    for _ in range(300):
        watch.run(1, **good).run(1, **bad)
    assert [what for _, _, what in watch.changes] == ["critical"]


def test_what_swings_between_well_and_a_warning_is_critical_no_more() -> None:
    watch = Watch().run(20, soc_c=85.5)
    for _ in range(60):
        watch.run(1, soc_c=78.0).run(1, soc_c=80.0)
    assert [what for _, _, what in watch.changes] == ["critical", "warning"]


def test_worse_is_told_at_once_and_keeps_its_begin() -> None:
    watch = Watch().run(15, disk_free_mb=200.0).run(1, disk_free_mb=50.0)
    assert watch.changes[1] == (15, "disk-low", "critical")
    assert watch.alarms.raised[AlarmName.DISK_LOW].since == 100.0


def test_figures_are_told_anew_now_and_then() -> None:
    watch = Watch()
    for second in range(200):
        watch.run(1, disk_free_mb=400.0 - second)
    assert watch.refreshes == [10 + REFRESH_S, 10 + 2 * REFRESH_S, 10 + 3 * REFRESH_S]
    assert watch.alarms.raised[AlarmName.DISK_LOW].value == 400.0 - 190
    assert watch.alarms.raised[AlarmName.DISK_LOW].since == 100.0


def test_a_sensor_that_is_lost_keeps_nothing_raised_for_long() -> None:
    watch = Watch().run(11, soc_c=90.0).run(29, soc_c=None)
    assert watch.severity(AlarmName.OVERHEATING) is CRITICAL
    assert watch.run(5, soc_c=None).severity(AlarmName.OVERHEATING) is None


def test_a_crash_loop_is_over_when_no_end_is_lately() -> None:
    watch = Watch().run(1, worker_ends_lately=3).run(1, worker_ends_lately=1)
    assert watch.severity(AlarmName.WORKER_CRASH_LOOP) is CRITICAL
    assert watch.run(1, worker_ends_lately=0).severity(AlarmName.WORKER_CRASH_LOOP) is None


VALUES = st.one_of(st.none(), st.floats(-1e6, 1e6))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), VALUES, VALUES, VALUES, st.sampled_from([None, True, False])), max_size=8)
)
def test_whatever_comes_no_alarm_comes_twice_within_30_s(
    spells: list[tuple[int, float | None, float | None, float | None, bool | None]],
) -> None:
    watch = Watch()
    for seconds, soc_c, disk_mb, memory_mb, bit in spells:
        watch.run(seconds, soc_c=soc_c, disk_free_mb=disk_mb, memory_available_mb=memory_mb, is_undervoltage=bit)
    for name in AlarmName:
        told = [what for _, named, what in watch.changes if named == name.value]
        at = [second for second, named, _ in watch.changes if named == name.value]
        begins = [second for second, what, before in zip(at, told, [None, *told], strict=False) if what and not before]
        assert all(later - earlier >= 30 for earlier, later in itertools.pairwise(begins))
