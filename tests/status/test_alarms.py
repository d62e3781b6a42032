from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edge_agent.board.reading import BoardReading, Memory, Thermal, Throttle, ThrottleCause
from edge_agent.core.messages import Publication
from edge_agent.core.pipe import OddField
from edge_agent.core.topics import Topics
from edge_agent.learning.facts import TaskAccuracy
from edge_agent.learning.facts import findings as findings_of_learning
from edge_agent.learning.maths.assessment import Shift
from edge_agent.pool.facts import PoolFacts, QueueFigures
from edge_agent.requests.statistics import MIN_ODD_WINDOW, OddInputs, OddShare
from edge_agent.status.alarms import ALARMS, REFRESH_S, Alarms, Finding, Severity
from tests.helpers.facts import pool_facts
from tests.helpers.support import BASE, labelled

UNKNOWN = BoardReading()
NOT_THROTTLED = Throttle(now=False, undervoltage_now=False)


def reading(
    soc_c: float | None = 50.0,
    available_mb: float | None = 2000.0,
    total_mb: float | None = 4000.0,
    disk_mb: float | None = 9000.0,
    throttle: Throttle = NOT_THROTTLED,
) -> BoardReading:
    return BoardReading(
        thermal=Thermal(soc_c=soc_c, limit_c=85.0),
        memory=Memory(total_mb=total_mb, available_mb=available_mb),
        disk_free_mb=disk_mb,
        throttle=throttle,
    )


THROTTLED = Throttle(now=True, causes=(ThrottleCause.THERMAL,))
UNDERVOLTAGE = Throttle(undervoltage_now=True)
BACKLOG = pool_facts(queue=QueueFigures(waiting=61, places=12, dead=0))
LOST = pool_facts(connected_s=None, places=0, queue=None)


class Bus:
    """A board's alarms as the broker holds them; they are updated once a second."""

    def __init__(self) -> None:
        self.retained: dict[str, dict[str, Any]] = {}
        self.publications: list[Publication] = []
        self.alarms = Alarms(Topics("edgeai/v1", "hall1", "board1"), self._announce)
        self.now = 100.0
        self.refused = 0
        # For each change of severity, its time, the alarm and the new severity.
        self.changes: list[tuple[float, str, str | None]] = []

    def _announce(self, publication: Publication) -> None:
        self.publications.append(publication)
        name = publication.topic.removeprefix(f"{BASE}/alarm/")
        self.retained.pop(name, None)
        if publication.payload:
            self.retained[name] = json.loads(publication.payload)

    def run(
        self,
        seconds: float,
        board: BoardReading = UNKNOWN,
        *,
        session: str = "s1",
        accuracy: dict[str, TaskAccuracy] | None = None,
        pool: PoolFacts | None = None,
        expires: str | None = None,
        depth: int = 0,
        refused_each: int = 0,
        odd_inputs: Sequence[OddShare] = (),
        ready_since: float | None = None,
        is_silent: bool = False,
        failed_in_a_row: int = 0,
    ) -> Bus:
        for _ in range(round(seconds)):
            before = self.alarms.severities
            self.refused += refused_each
            has_changed = self.alarms.update(
                self.now,
                session=session,
                reading=board,
                findings={**(pool.findings() if pool else {}), **findings_of_learning(accuracy or {}, {})},
                expires=expires,
                queue_depth=depth,
                overloaded_total=self.refused,
                odd_inputs=odd_inputs,
                worker_ready_since=ready_since,
                is_worker_silent=is_silent,
                failed_in_a_row=failed_in_a_row,
                last_failure="the model's logit of token 0 is nan",
            )
            after = self.alarms.severities
            assert has_changed == (before != after)
            self.changes += [
                (self.now - 100, name, after.get(name))
                for name in before.keys() | after.keys()
                if before.get(name) != after.get(name)
            ]
            self.now += 1
        return self

    @property
    def told(self) -> list[str | None]:
        return [severity for _, _, severity in self.changes]


@pytest.fixture
def bus(caplog: pytest.LogCaptureFixture) -> Bus:
    caplog.set_level(logging.CRITICAL)
    return Bus()


@pytest.mark.parametrize(
    ("board", "raised"),
    [
        (reading(), {}),
        (UNKNOWN, {}),
        (reading(soc_c=82.0), {"overheating": "warning"}),
        (reading(soc_c=85.0), {"overheating": "critical"}),
        (reading(throttle=THROTTLED), {"throttled": "warning"}),
        (reading(throttle=UNDERVOLTAGE), {"undervoltage": "critical"}),
        (reading(available_mb=199.0), {"memory-low": "warning"}),
        (reading(available_mb=99.0), {"memory-low": "critical"}),
        (reading(total_mb=1000.0, available_mb=101.0), {}),
        (reading(total_mb=1000.0, available_mb=99.0), {"memory-low": "warning"}),
        (reading(total_mb=64000.0, available_mb=501.0), {}),
        (reading(total_mb=None, available_mb=49.0), {"memory-low": "critical"}),
        (reading(disk_mb=499.0), {"disk-low": "warning"}),
        (reading(disk_mb=0.0), {"disk-low": "critical"}),
    ],
)
def test_what_the_board_reads_raises_its_alarm(bus: Bus, board: BoardReading, raised: dict[str, str]) -> None:
    assert bus.run(60, board).alarms.severities == raised


def test_an_alarm_is_unmeasured_while_the_board_cannot_find_its_cause(bus: Bus) -> None:
    asked = {"model-quality", "accuracy-low", "input-drift", "odd-inputs"}
    blind = {"overheating", "throttled", "undervoltage", "memory-low", "disk-low", *asked}
    assert bus.alarms.unmeasured == blind
    assert bus.run(1, reading(60.0)).alarms.unmeasured == asked
    bus.alarms.set_quality_fault("")
    known = {"triage": TaskAccuracy(audits=1, shift=Shift(0.0, "the scores"))}
    odd = OddShare("triage", 0.0, None, expected=0.01, is_high=False)
    assert bus.run(1, reading(60.0), accuracy=known, odd_inputs=[odd]).alarms.unmeasured == set()


def test_many_inputs_that_are_not_as_the_training_was_raise_an_alarm_with_the_field(bus: Bus) -> None:
    newest = OddInputs()
    usual = replace(labelled(1, ok=1.0), rare_fields={})
    odd = OddField(field="outlet_bar", value=102.0, why="out-of-range", usual=(6.5, 7.5))
    for event, count, look_at in (
        (labelled(1, ok=1.0), 200, None),  # of a general model
        (usual, MIN_ODD_WINDOW - 1, None),
        (replace(usual, odd_fields=(odd,)), 10, None),
        (replace(usual, odd_fields=(odd,)), 10, "outlet_bar"),
        (usual, 150, None),
        (replace(usual, unlike=0.1), 60, "what its sensors send"),
    ):
        for _ in range(count):
            newest.add("triage", event)
        alarm = bus.run(1, odd_inputs=newest.shares({})).retained.get("odd-inputs")
        assert look_at == (None if alarm is None else alarm["message"].split("as its training was: look at ")[1])
    assert bus.retained["odd-inputs"]["value"] == 0.3
    newest.clear()
    assert newest.shares({}) == []


@pytest.mark.parametrize(
    ("odd", "inputs", "held_out", "told"),
    [
        (14, 200, (8, 400), None),
        (
            30,
            200,
            (8, 400),
            "15% of the newest inputs of task triage are not as its training was (2% were in training)",
        ),
        # There is no alarm for as many as in training, although many, nor if it held out too few rows to say.
        (40, 200, (100, 400), None),
        (30, 200, (0, 4), None),
    ],
)
def test_odd_inputs_raise_an_alarm_if_they_are_more_than_in_training(
    bus: Bus, odd: int, inputs: int, held_out: tuple[int, int], told: str | None
) -> None:
    newest, usual = OddInputs(), replace(labelled(1, ok=1.0), rare_fields={})
    for number in range(inputs):
        newest.add("triage", replace(usual, unlike=0.1) if number < odd else usual)
    alarm = bus.run(1, odd_inputs=newest.shares({"triage": held_out})).retained.get("odd-inputs")
    assert told == (None if alarm is None else alarm["message"].split(": look at")[0])


@pytest.mark.parametrize(
    ("unusual", "inputs", "allowed", "told"),
    [
        (176, 200, 0.006, "88% of the newest readings of task watch are unusual (0.6% were expected): a lasting fault"),
        (90, 99, 0.006, None),
        (10, 200, 0.006, None),
        (30, 200, 0.1, None),
        (60, 200, 0.1, "30% of the newest readings of task watch are unusual (10% were expected): a lasting fault"),
    ],
)
def test_readings_that_are_unusual_more_often_than_the_task_allows_raise_an_alarm(
    bus: Bus, unusual: int, inputs: int, allowed: float, told: str | None
) -> None:
    newest = OddInputs()
    for number in range(inputs):
        newest.add_notable("watch", "unusual", allowed, is_notable=number < unusual)
    alarm = bus.run(1, odd_inputs=newest.shares({})).retained.get("odd-inputs")
    assert told == (None if alarm is None else alarm["message"].split(", or the plant")[0])
    newest.add_notable("watch", "unusual", allowed / 2, is_notable=True)
    assert newest.shares({}) == []  # Answers of another definition do not count.


FELL = TaskAccuracy(audits=1, dropped_from=0.97, dropped_to=(24, 40))
SHIFTED, MORE_SHIFTED = (TaskAccuracy(shift=Shift(index, "the scores")) for index in (0.3, 0.4))
ODD = OddShare("a", 0.4, None, expected=0.01, is_high=True)


@pytest.mark.expects_warning
@pytest.mark.parametrize(
    ("name", "one", "both"),
    [
        ("accuracy-low", {"accuracy": {"a": FELL, "b": TaskAccuracy(audits=1)}}, {"accuracy": {"a": FELL, "b": FELL}}),
        ("input-drift", {"accuracy": {"a": SHIFTED}}, {"accuracy": {"b": SHIFTED, "a": MORE_SHIFTED}}),
        ("odd-inputs", {"odd_inputs": [ODD]}, {"odd_inputs": [ODD, replace(ODD, task="b", share=0.3)]}),
    ],
)
def test_an_alarm_names_each_task_that_has_its_cause_and_the_log_says_when_one_joins_or_leaves(
    caplog: pytest.LogCaptureFixture, name: str, one: dict[str, Any], both: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO)
    bus = Bus()
    alone = bus.run(1, **one).retained[name]
    assert (" task a " in f" {alone['message']}", "task b" in alone["message"]) == (True, False)
    joined = bus.run(1, **both).retained[name]
    assert joined["message"] == f"tasks a, b: {alone['message']}"
    assert (joined["since"], joined["value"] is None) == (alone["since"], False)
    bus.run(100, **both)
    assert len(bus.publications) == 2
    left = bus.run(1, **one).retained[name]
    assert (left["message"], left["since"]) == (alone["message"], alone["since"])
    bus.run(1, **both).run(1)
    assert (bus.told, bus.retained) == (["warning", None], {})
    heads = [record.getMessage().split(": ")[0] for record in caplog.records]
    warning = f"alarm name={name} severity=warning"
    cleared = f"alarm cleared name={name}"
    assert heads == [warning, warning, f"{cleared} task=b", warning, cleared]
    assert all("task b " in caplog.records[number].getMessage() for number in (1, 3))


def test_labels_and_numbers_that_are_wrong_too_often_are_one_alarm() -> None:
    low = Finding(Severity.WARNING, "intervals of task b hold 6 of 18", 0.333)
    both = findings_of_learning({"a": FELL}, {"b": low, "c": None})["accuracy-low"]
    assert both is not None
    assert both.message.startswith("tasks a, b: task a is right less often than before (")
    alone = findings_of_learning({"a": TaskAccuracy(audits=1)}, {"b": low})["accuracy-low"]
    assert alone == low


def test_each_alarm_says_what_to_do(bus: Bus) -> None:
    for now in (100.0, 101.0, 102.0):
        bus.alarms.on_worker_ended("exit code 1", now)
    bus.alarms.on_taken_over(100.0)
    bus.alarms.set_quality_fault("canary 3 differs: go back")
    bus.alarms.set_model_fault("/m: it is cut off")
    bus.alarms.set_revocations("the list is cut", None)
    throttle = Throttle(now=True, causes=(ThrottleCause.THERMAL,), undervoltage_now=True)
    hot = reading(90.0, 1.0, disk_mb=1.0, throttle=throttle)
    drifted = {"triage": TaskAccuracy(dropped_from=0.97, dropped_to=(24, 40), shift=Shift(0.4, "the field amps"))}
    bus.run(60, hot, accuracy=drifted, depth=5, refused_each=1, pool=BACKLOG, is_silent=True)
    assert "pool-backlog" in bus.retained
    odd = OddShare("triage", 0.4, None, expected=0.01, is_high=True)
    bus.run(
        20,
        hot,
        accuracy=drifted,
        depth=5,
        refused_each=1,
        pool=LOST,
        expires="2026-01-01",
        odd_inputs=[odd],
        is_silent=True,
    )
    assert set(bus.retained) == {rule.name for rule in ALARMS}
    assert all(": " in alarm["message"] for alarm in bus.retained.values())
    low = bus.retained["accuracy-low"]
    assert "(97% of the earlier audits were right, and then 24 of 40)" in low["message"]
    assert low["value"] == 0.6
    assert "most in the field amps: look at" in bus.retained["input-drift"]["message"]
    assert "(thermal)" in bus.retained["throttled"]["message"]
    assert bus.retained["model-quality"]["severity"] == "critical"
    bus.alarms.set_quality_fault(None)
    assert "model-quality" not in bus.run(1).alarms.severities


@pytest.mark.parametrize("canaries", [None, ""])
def test_requests_that_fail_in_a_row_are_a_fault_of_the_model_until_an_answer(bus: Bus, canaries: str | None) -> None:
    bus.alarms.set_quality_fault(canaries)
    assert "model-quality" not in bus.run(1, failed_in_a_row=2).alarms.severities
    told = bus.run(1, failed_in_a_row=3).retained["model-quality"]
    assert (told["severity"], told["value"]) == ("critical", 3)
    assert "3 requests failed, the last because the model's logit of token 0 is nan: run" in told["message"]
    assert "model-quality" not in bus.run(1, failed_in_a_row=0).alarms.severities


def test_a_crash_loop_is_told_in_the_past_and_eases_once_the_worker_answers_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0 + bus.now - 100.0)  # 08:00 UTC at 100
    for now in (97.0, 98.0, 99.0):
        bus.alarms.on_worker_ended("not started: no such file", now)
    assert bus.run(61, ready_since=100.0).told == ["critical", "warning"]
    message = bus.retained["worker-crash-loop"]["message"]
    assert (
        "most recently not started: no such file; it has answered again since 08:00 UTC: if it happens again, "
        in message
    )
    # A model switch replaces it.
    assert bus.run(2).run(2, ready_since=bus.now).told == ["critical", "warning"]
    bus.alarms.on_worker_ended("killed by SIGKILL", bus.now)
    assert bus.run(1).told[-1] == "critical"
    assert "answered again" not in bus.retained["worker-crash-loop"]["message"]


def test_a_worker_that_hangs_is_critical_until_it_speaks(bus: Bus) -> None:
    assert bus.run(2, is_silent=True).alarms.severities == {"worker-silent": "critical"}
    assert "no request is answered: wait" in bus.retained["worker-silent"]["message"]
    assert bus.run(1).alarms.severities == {}


def test_a_model_expires_only_by_a_clock_that_is_set(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bus.run(1, expires="9999-12-31").alarms.severities == {}
    assert bus.run(1, expires="2026-01-01").alarms.severities == {"model-expired": "warning"}
    assert "2026-01-01 but keeps answering: switch to a newer bundle" in bus.retained["model-expired"]["message"]
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert bus.run(1, expires="2026-01-01").alarms.severities == {}
    assert "model-expired" in bus.alarms.unmeasured


def test_a_revoked_model_is_worse_than_a_faulty_list(bus: Bus) -> None:
    bus.alarms.set_revocations("the list is cut", None)
    assert bus.run(1).alarms.severities == {"revocations": "warning"}
    bus.alarms.set_revocations("the list is cut", "revoked by list 2")
    assert bus.run(1).alarms.severities == {"revocations": "critical"}
    bus.alarms.set_revocations(None, None)
    assert bus.run(1).alarms.severities == {}


def test_a_raised_alarm_is_retained_with_the_fields_of_the_contract(bus: Bus) -> None:
    bus.run(11, reading(disk_mb=50.0))
    (publication,) = bus.publications
    assert (publication.topic, publication.qos, publication.retain) == (f"{BASE}/alarm/disk-low", 1, True)
    alarm = bus.retained["disk-low"]
    assert set(alarm) == {"ts", "severity", "since", "message", "value", "session"}
    assert (alarm["severity"], alarm["value"], alarm["session"]) == ("critical", 50.0, "s1")
    assert alarm["since"] < alarm["ts"]
    bus.run(130, UNKNOWN)
    assert bus.publications[-1] == Publication(topic=f"{BASE}/alarm/disk-low", payload=b"", retain=True)
    assert bus.alarms.severities == {}


def test_a_moment_neither_raises_an_alarm_nor_ends_it(bus: Bus) -> None:
    full = reading(disk_mb=200.0)
    bus.run(9, full).run(1, reading()).run(9, full).run(1, reading())
    assert bus.changes == []
    begin = bus.now - 100
    bus.run(20, full)
    assert bus.changes == [(begin + 10, "disk-low", "warning")]
    for _ in range(10):
        bus.run(110, reading()).run(1, full)
    assert bus.told == ["warning"]
    assert bus.run(130, reading()).told == ["warning", None]


def test_a_worse_severity_is_published_at_once_and_a_better_one_after_a_while(bus: Bus) -> None:
    bus.run(15, reading(disk_mb=200.0)).run(1, reading(disk_mb=50.0))
    since = bus.retained["disk-low"]["since"]
    assert bus.changes[1] == (15, "disk-low", "critical")
    bus.run(115, reading(disk_mb=200.0))
    assert bus.told == ["warning", "critical"]
    bus.run(10, reading(disk_mb=200.0))
    assert bus.told == ["warning", "critical", "warning"]
    assert bus.retained["disk-low"]["since"] == since


def test_new_figures_are_published_from_time_to_time(bus: Bus) -> None:
    for second in range(200):
        bus.run(1, reading(disk_mb=400.0 - second))
    assert len(bus.publications) == 4
    assert bus.retained["disk-low"]["value"] == 400.0 - 10 - 3 * REFRESH_S


def test_a_clock_that_is_set_late_still_gives_the_begin(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    bus.run(11, reading(disk_mb=50.0))
    assert (bus.retained["disk-low"]["since"], bus.retained["disk-low"]["ts"]) == (None, None)
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    bus.alarms.publish_all(160.0, "s2", clear_others=True)
    assert bus.retained["disk-low"]["since"] == "2027-01-15T07:59:00.000Z"


def test_a_worker_that_dies_again_and_again(bus: Bus) -> None:
    for now in (100.0, 100.0):
        bus.alarms.on_worker_ended("exit code 1", now)
    assert bus.run(1).retained == {}
    bus.alarms.on_worker_ended("killed by SIGKILL", 101.0)
    message = bus.run(1).retained["worker-crash-loop"]["message"]
    assert message.startswith("the worker ended 3 times within 10 minutes, most recently killed by SIGKILL: ")
    assert bus.run(590).alarms.severities == {"worker-crash-loop": "critical"}
    assert bus.run(20).retained == {}


def test_two_foreign_sessions_are_another_agent_and_one_is_the_process_before(bus: Bus) -> None:
    for now in (100.0, 100.0, 100.0):
        bus.alarms.on_foreign_session("that of the process before", now)
    assert bus.run(1).alarms.severities == {}
    bus.alarms.on_foreign_session("a day later", 80_000.0)
    bus.now = 80_000.0
    assert bus.run(1).alarms.severities == {}
    bus.alarms.on_foreign_session("another", 80_001.0)
    assert bus.run(1).alarms.severities == {"duplicate-client-id": "critical"}


def test_refusals_are_an_overload_once_they_last_and_only_while_requests_wait(bus: Bus) -> None:
    assert bus.run(100, refused_each=3).changes == []
    bus.run(30, depth=5, refused_each=3)
    assert bus.changes == []
    bus.run(2, depth=5, refused_each=3)
    assert bus.alarms.severities == {"queue-overload": "warning"}
    assert bus.run(80, depth=5).alarms.severities == {}


def test_a_pool_that_keeps_up_or_is_away_for_a_moment_raises_nothing(bus: Bus) -> None:
    keeps_up = pool_facts(queue=QueueFigures(waiting=60, places=12, dead=0))
    bus.run(9, pool=LOST).run(60, pool=keeps_up).run(29, pool=BACKLOG).run(1, pool=keeps_up)
    assert bus.changes == []


def test_a_pool_without_any_place_has_a_backlog_and_of_one_that_is_away_no_figures_are_known(bus: Bus) -> None:
    nobody = pool_facts(queue=QueueFigures(waiting=1, places=0, dead=0))
    assert bus.run(31, pool=nobody).retained["pool-backlog"]["value"] == 1
    assert bus.run(120, pool=pool_facts()).alarms.severities == {}
    assert "pool-backlog" in bus.run(11, pool=LOST).alarms.unmeasured
    assert bus.alarms.severities == {"pool-unreachable": "warning"}
    assert bus.run(1, pool=pool_facts()).alarms.severities == {}
