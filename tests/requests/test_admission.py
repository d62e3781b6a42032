"""Timelines of an engine that runs one request at a time, one second each, unless a test says otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.messages import Code, Error, Refusal
from edge_agent.requests.admission import Admission
from edge_agent.requests.forecast import BELIEVED_PER_RUN_S, BELIEVED_S, Backlog, Forecast
from edge_agent.requests.queue import RequestQueue
from edge_agent.requests.request import Request
from tests.helpers.support import config, request

KIND = request().kind
LONG_KIND = ("triage", 0, 13)


class Office:
    """A queue before an engine whose times are known."""

    def __init__(self, *, capacity: int = 100, slots: int = 1, share_s: float | None = 1.0, running: int = 1) -> None:
        self.queue = RequestQueue(capacity)
        self.forecast = Forecast()
        self.slots = slots
        self.running = running
        self.admission = Admission(config(), self.queue, self.forecast)
        if share_s is not None:
            self.forecast.measure(KIND, share_s=share_s, run_s=share_s, batch=1, now=0.0)

    def enter(
        self, deadline_s: float, priority: int = 5, now: float = 0.0, loading_s: float | None = None, **fields: Any
    ) -> tuple[Request, list[tuple[Request, Error]]]:
        """The newcomer, and the requests that left for it. Raises Refusal."""
        newcomer = request(arrived_at=now, deadline_at=now + deadline_s, priority=priority, **fields)
        backlog = Backlog(slots=self.slots)
        for _ in range(self.running):
            backlog.add_running(self.forecast.expect(KIND), elapsed_s=0.0, beside=1)
        return newcomer, self.admission.admit(newcomer, backlog, now, loading_s)

    def refused(self, deadline_s: float, priority: int = 5, **fields: Any) -> Error:
        waiting = list(self.queue.waiting)
        with pytest.raises(Refusal) as refusal:
            self.enter(deadline_s, priority, **fields)
        assert list(self.queue.waiting) == waiting
        return refusal.value.error


def test_a_deadline_that_can_be_met_is_admitted() -> None:
    office = Office()
    office.enter(2.0)
    office.enter(3.0)


def test_a_deadline_that_cannot_be_met_is_refused_with_the_estimate_and_a_time() -> None:
    office = Office()
    for _ in range(3):
        office.enter(60.0)
    error = office.refused(1.5)
    assert (error.code, error.retry_after_s) == (Code.DEADLINE_UNREACHABLE, 4.0)
    assert error.message == "would be answered after about 2000 ms, too late for the deadline of 1500 ms (request)"


def test_on_an_idle_engine_a_hopeless_deadline_is_refused_until_it_is_tried_again() -> None:
    office = Office(running=0)
    error = office.refused(0.02)
    assert (error.code, error.retry_after_s) == (Code.DEADLINE_UNREACHABLE, BELIEVED_PER_RUN_S)
    office.enter(0.02, now=BELIEVED_PER_RUN_S)


def test_an_idle_engine_tries_what_is_likely_in_time() -> None:
    office = Office(running=0)
    office.forecast.measure(KIND, share_s=3.0, run_s=3.0, batch=1, now=0.0)
    office.enter(1.0)


def test_only_requests_that_start_earlier_count() -> None:
    office = Office()
    for _ in range(10):
        office.enter(60.0)
    office.enter(2.0)


def test_the_unknown_and_the_long_ago_measured_are_admitted() -> None:
    office = Office(share_s=None)
    for _ in range(50):
        office.enter(0.01)
    Office().enter(0.1, now=BELIEVED_S)


def test_the_first_burst_is_not_refused_for_answers_as_long_as_they_may_be() -> None:
    office = Office(share_s=None, slots=4, running=4)
    office.forecast.set_rates(800.0, 120.0)
    for _ in range(4):
        office.enter(6.0)
    assert office.refused(0.01, kind=LONG_KIND).code is Code.DEADLINE_UNREACHABLE


def test_a_newcomer_does_not_make_an_admitted_request_of_its_priority_late() -> None:
    office = Office()
    admitted, _ = office.enter(2.5)
    error = office.refused(2.4)
    assert error.code is Code.DEADLINE_UNREACHABLE
    assert error.message.endswith("within the deadline of 2400 ms (request), but make an admitted request late")
    assert office.queue.waiting == [admitted]


def test_a_more_urgent_newcomer_goes_first_and_a_less_urgent_request_may_expire() -> None:
    office = Office()
    lax, _ = office.enter(2.5, priority=9)
    urgent, leaving = office.enter(2.0, priority=0)
    assert leaving == []
    assert office.queue.waiting == [urgent, lax]


def test_one_that_is_late_already_refuses_no_newcomer() -> None:
    office = Office()
    office.forecast.measure(LONG_KIND, share_s=3.0, run_s=3.0, batch=1, now=0.0)
    office.queue.add(request(deadline_at=3.5, kind=LONG_KIND))
    office.enter(3.0)


def test_in_a_full_queue_the_last_of_a_less_urgent_priority_makes_room() -> None:
    office = Office(capacity=2)
    (first, _), (last, _) = office.enter(50.0), office.enter(60.0)
    newcomer, ((displaced, error),) = office.enter(40.0, priority=4)
    assert displaced is last
    assert (error.code, error.retry_after_s) == (Code.QUEUE_FULL, 3.0)
    assert office.queue.waiting == [newcomer, first]


@pytest.mark.parametrize("priority", [5, 6])
def test_in_a_full_queue_one_that_is_not_more_urgent_is_refused(priority: int) -> None:
    office = Office(capacity=2)
    office.enter(50.0)
    office.enter(60.0)
    error = office.refused(40.0, priority=priority)
    assert (error.code, error.retry_after_s) == (Code.QUEUE_FULL, 3.0)


def test_before_anything_is_measured_the_retry_time_is_a_second() -> None:
    office = Office(capacity=1, share_s=None)
    office.enter(60.0)
    assert office.refused(60.0).retry_after_s == 1.0


def test_without_an_engine_only_a_full_queue_and_an_end_of_the_load_refuse() -> None:
    office = Office(slots=0, capacity=2, running=0)
    office.enter(0.1)
    assert office.refused(0.1, loading_s=4.0).code is Code.LOADING
    office.enter(5.0, loading_s=4.0)
    assert office.refused(0.1).code is Code.LOADING


def test_a_newer_reading_takes_the_place_of_the_one_it_supersedes() -> None:
    office = Office()
    old, _ = office.enter(5.0, source="s")
    other, _ = office.enter(6.0)
    new, ((left, error),) = office.enter(9.0, source="s")
    assert (left, error.code) == (old, Code.SUPERSEDED)
    assert office.queue.waiting == [new, other]


def test_a_reading_that_is_refused_supersedes_none() -> None:
    office = Office()
    office.enter(5.0, source="s")
    office.refused(1.5, source="s")


class Shift:
    """An engine that does what it was measured to do, one request a second, and newcomers of one priority."""

    def __init__(self) -> None:
        self.office = Office(running=0)
        self.now = self.free_at = 0.0
        self.late = 0

    def arrive(self, deadline_s: float, pause_s: float) -> None:
        self.now += pause_s
        self.work_until(self.now)
        left_s = max(0.0, self.free_at - self.now)
        newcomer = request(arrived_at=self.now, deadline_at=self.now + deadline_s)
        running = Backlog(slots=1, count=1, work_s=left_s) if left_s else Backlog(slots=1)
        self.office.forecast.measure(KIND, share_s=1.0, run_s=1.0, batch=1, now=self.now)
        try:
            self.office.admission.admit(newcomer, running, self.now, None)
        except Refusal:
            return
        if not left_s:
            self.start(self.now)

    def work_until(self, until: float) -> None:
        while self.free_at <= until and self.office.queue.waiting:
            self.start(self.free_at)

    def start(self, at: float) -> None:
        started = self.office.queue.take(first_attempts_only=False)
        assert started is not None
        self.free_at = at + 1.0
        self.late += self.free_at > started.deadline_at + 1e-6


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 1)), max_size=60))
def test_admitted_requests_of_one_priority_are_in_time_if_the_engine_does_as_measured(
    arrivals: list[tuple[float, float]],
) -> None:
    shift = Shift()
    for deadline_s, pause_s in arrivals:
        shift.arrive(deadline_s, pause_s)
    shift.work_until(1e9)
    assert shift.late == 0


def test_the_backlog_is_estimated_by_kind() -> None:
    office = Office()
    office.forecast.measure(LONG_KIND, share_s=30.0, run_s=30.0, batch=1, now=0.0)
    office.queue.add(replace(request(deadline_at=1.0), kind=LONG_KIND))
    assert office.refused(20.0).code is Code.DEADLINE_UNREACHABLE
