"""The queue before an engine that runs one request at a time, one second each, unless a test says otherwise."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.codes import Code, Error, Refusal
from edge_agent.core.pipe import ChatMessage, EngineRequest, TextPlan
from edge_agent.requests.forecast import TRUSTED_PER_RUN_S, TRUSTED_S, Forecast, cost_class_of
from edge_agent.requests.queue import MAX_BUCKETS, EngineLoad, RateLimiter, RequestQueue
from edge_agent.requests.request import LARGE, Request
from tests.helpers.support import config, request

COST_CLASS = request().cost_class
LONG_CLASS = ("triage", 0, 13)


class Office:
    """A queue before an engine whose times are known."""

    def __init__(
        self, *, capacity: int = 100, slots: int = 1, engine_time_s: float | None = 1.0, running: int = 1
    ) -> None:
        self.forecast = Forecast()
        self.queue = RequestQueue(config(f"[queue]\ncapacity = {capacity}\n"), self.forecast)
        self.slots = slots
        self.running = running
        if engine_time_s is not None:
            self.record_run(COST_CLASS, engine_time_s)

    def record_run(self, cost_class: tuple[str, int, int], engine_time_s: float, now: float = 0.0) -> None:
        self.forecast.record_run(cost_class, engine_time_s=engine_time_s, run_s=engine_time_s, now=now)

    def enter(
        self, deadline_s: float, priority: int = 5, now: float = 0.0, loading_s: float | None = None, **fields: Any
    ) -> tuple[Request, list[tuple[Request, Error]]]:
        """The newcomer, and the requests that left for it. Raises Refusal."""
        newcomer = request(arrived_at=now, deadline_at=now + deadline_s, priority=priority, **fields)
        work_s = self.running * self.forecast.engine_time_s(COST_CLASS)
        engine = EngineLoad(slots=self.slots, running=self.running, work_s=work_s, loading_s=loading_s)
        return newcomer, self.queue.admit(newcomer, engine, now)

    def refused(self, deadline_s: float, priority: int = 5, **fields: Any) -> Error:
        waiting = list(self.queue.waiting)
        with pytest.raises(Refusal) as refusal:
            self.enter(deadline_s, priority, **fields)
        assert list(self.queue.waiting) == waiting
        return refusal.value.error


def test_it_says_to_come_back_when_the_last_deadline_of_those_that_wait_has_passed() -> None:
    office = Office(capacity=2, engine_time_s=None)
    for deadline_s in (20.0, 30.0):
        office.enter(deadline_s)
    office.record_run(COST_CLASS, 100.0)
    assert office.refused(60.0).retry_after_s == 30.0
    assert office.refused(60.0, loading_s=5.0).retry_after_s == 35.0


def test_a_deadline_that_cannot_be_met_is_refused_with_the_estimate_and_a_time() -> None:
    office = Office()
    for deadline_s in (2.3, 60.0, 60.0):
        office.enter(deadline_s)
    error = office.refused(1.5)
    assert (error.code, error.retry_after_s) == (Code.DEADLINE_UNREACHABLE, 4.0)
    assert error.message == "would be answered after about 2250 ms, too late for the deadline of 1500 ms (request)"


def test_on_an_idle_engine_a_hopeless_deadline_is_refused_until_it_is_tried_again() -> None:
    office = Office(running=0)
    error = office.refused(0.02)
    assert (error.code, error.retry_after_s) == (Code.DEADLINE_UNREACHABLE, TRUSTED_PER_RUN_S)
    office.enter(0.02, now=TRUSTED_PER_RUN_S)
    for _ in range(50):
        office.record_run(COST_CLASS, 1.0, 100.0)
    office.refused(0.02, now=99.0 + TRUSTED_S)
    office.enter(0.02, now=100.0 + TRUSTED_S)


def test_without_a_free_slot_the_work_ahead_comes_first_and_runs_may_vary() -> None:
    office = Office(slots=4, running=3)
    office.forecast.record_run(COST_CLASS, engine_time_s=1.0, run_s=5.0, now=0.0)  # mean 3, deviation 1
    office.refused(6.9)
    office.enter(7.1)
    # Now all four are busy for four seconds, and one waits, which gives 1.25 * 5 + 3 + 4.
    office.running = 4
    office.refused(13.2)
    office.enter(13.3)


def test_what_was_never_measured_is_admitted_and_its_retry_time_is_a_second() -> None:
    office = Office(engine_time_s=None, capacity=50)
    for _ in range(50):
        office.enter(0.01)
    assert office.refused(0.01).retry_after_s == 1.0


def test_a_newcomer_does_not_make_an_admitted_request_of_its_priority_late() -> None:
    office = Office()
    admitted, _ = office.enter(2.5)
    error = office.refused(2.4)
    assert error.code is Code.DEADLINE_UNREACHABLE
    assert error.message.endswith("within the deadline of 2400 ms (request), but would make an admitted request late")
    assert office.queue.waiting == [admitted]


def test_one_that_is_late_already_refuses_no_newcomer() -> None:
    office = Office()
    office.record_run(LONG_CLASS, 3.0)
    office.queue.put(request(deadline_at=3.5, cost_class=LONG_CLASS))
    office.enter(3.0)


def test_in_a_full_queue_only_a_less_urgent_request_makes_room() -> None:
    office = Office(capacity=2)
    (first, _), (last, _) = office.enter(50.0), office.enter(60.0)
    for priority in (5, 6):
        error = office.refused(40.0, priority=priority)
        assert (error.code, error.retry_after_s) == (Code.QUEUE_FULL, 3.0)
    newcomer, ((displaced, error),) = office.enter(40.0, priority=4)
    assert displaced is last
    assert (error.code, error.retry_after_s) == (Code.QUEUE_FULL, 3.0)
    assert office.queue.waiting == [newcomer, first]


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
    office.refused(1.5, source="s")  # one that is refused supersedes none
    new, ((left, error),) = office.enter(9.0, source="s")
    assert (left, error.code) == (old, Code.SUPERSEDED)
    assert office.queue.waiting == [new, other]


class Shift:
    """An engine that does what it was measured to do (one request a second), and newcomers of one priority."""

    def __init__(self) -> None:
        self.office = Office(running=0)
        self.now = self.free_at = 0.0
        self.late = 0

    def arrive(self, deadline_s: float, pause_s: float) -> None:
        self.now += pause_s
        self.work_until(self.now)
        left_s = max(0.0, self.free_at - self.now)
        newcomer = request(arrived_at=self.now, deadline_at=self.now + deadline_s)
        self.office.record_run(COST_CLASS, 1.0, self.now)
        try:
            self.office.queue.admit(newcomer, EngineLoad(slots=1, running=left_s > 0, work_s=left_s), self.now)
        except Refusal:
            return
        if not left_s:
            self.start(self.now)

    def work_until(self, until: float) -> None:
        while self.free_at <= until and self.office.queue.waiting:
            self.start(self.free_at)

    def start(self, at: float) -> None:
        started = self.office.queue.take({LARGE}, first_attempts_only=False)
        assert started is not None
        self.free_at = at + 1.0
        self.late += self.free_at > started.deadline_at + 1e-6


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 1)), max_size=60))
def test_admitted_requests_of_one_priority_are_in_time_at_measured_pace(arrivals: list[tuple[float, float]]) -> None:
    shift = Shift()
    for deadline_s, pause_s in arrivals:
        shift.arrive(deadline_s, pause_s)
    shift.work_until(1e9)
    assert shift.late == 0


def test_the_backlog_is_estimated_by_cost_class_and_an_unknown_class_by_its_task() -> None:
    office = Office()
    office.record_run(LONG_CLASS, 30.0)
    office.queue.put(request(deadline_at=1.0, cost_class=LONG_CLASS))
    assert office.refused(20.0).code is Code.DEADLINE_UNREACHABLE
    assert office.forecast.engine_time_s(("triage", 5, 9)) == 30.0
    assert office.forecast.estimate_for(("another", 5, 9)) is None


def test_a_cost_class_is_the_task_and_the_sizes_that_count() -> None:
    def run(user: str, **fields: Any) -> EngineRequest:
        messages = (ChatMessage(role="system", content="s" * 1000), ChatMessage(role="user", content=user))
        return EngineRequest(**{"id": 1, "task": "report", "messages": messages, "plan": TextPlan(), **fields})

    assert cost_class_of(run("x" * 20)) == cost_class_of(run("y" * 31))
    assert cost_class_of(run("x" * 20)) != cost_class_of(run("x" * 32))
    assert cost_class_of(run("x", max_tokens=16)) != cost_class_of(run("x", max_tokens=256))
    assert cost_class_of(run("x")) != cost_class_of(run("x", task="other"))


def test_the_first_runs_are_averaged_and_later_ones_smoothed() -> None:
    forecast = Forecast()
    for engine_time_s in (1.0, 3.0, *[2.0] * 50, 12.0):
        forecast.record_run(COST_CLASS, engine_time_s=engine_time_s, run_s=1.0, now=0.0)
    assert forecast.engine_time_s(COST_CLASS) == pytest.approx(3.0)


def test_a_run_that_was_cut_off_takes_longer_than_it_got_and_confirms_what_is_known_to_take_longer() -> None:
    forecast = Forecast()
    forecast.record_cut_off(COST_CLASS, run_s=2.0, at_once=2, now=0.0)
    expected = forecast.estimate_for(COST_CLASS)
    assert expected is not None
    assert expected.run_s > 2.0
    engine_time_s = expected.engine_time_s
    forecast.record_cut_off(COST_CLASS, run_s=0.1, at_once=2, now=50.0)
    assert (expected.engine_time_s, expected.trusted_until) == (engine_time_s, 50.0 + TRUSTED_PER_RUN_S)


def test_one_that_ran_before_is_not_started_beside_others_and_keeps_its_place() -> None:
    queue = Office().queue
    lost, other = request(attempts=1), request()
    for one in (other, lost):
        queue.put(one)
    assert queue.take({LARGE}, first_attempts_only=True) is None
    assert [queue.take({LARGE}, first_attempts_only=False) for _ in range(3)] == [lost, other, None]
    assert queue.oldest_ms(5.0) is None


def test_requests_start_by_priority_then_deadline_then_arrival() -> None:
    queue = Office().queue
    places = [(5, 9.0), (0, 20.0), (9, 1.0), (5, 8.0), (5, 8.0)]
    arrived = [request(priority=priority, deadline_at=at, arrived_at=at) for priority, at in places]
    for one in arrived:
        queue.put(one)
    assert queue.waiting == [arrived[index] for index in (1, 3, 4, 0, 2)]
    assert queue.oldest_ms(40.0) == 39_000.0
    assert queue.remove_where(lambda one: one.deadline_at == 8.0) == arrived[3:]
    assert queue.waiting == [arrived[index] for index in (1, 0, 2)]


def wait_s(limiter: RateLimiter, now: float, per_minute: int, name: str = "t") -> float:
    """How long a request has to wait; 0 where it is admitted, and counted."""
    try:
        limiter.take("reply topic", name, per_minute, now)
    except Refusal as refusal:
        error = refusal.error
    else:
        return 0.0
    assert error.code is Code.RATE_LIMITED
    assert error.retry_after_s
    return error.retry_after_s


def test_a_minutes_worth_may_come_at_once_and_then_as_many_as_fill_up() -> None:
    limiter = RateLimiter()
    assert [wait_s(limiter, 0.0, 3) for _ in range(3)] == [0, 0, 0]
    assert wait_s(limiter, 0.0, 3) == pytest.approx(20)
    assert wait_s(limiter, 14.98, 3) == 5.1
    assert wait_s(limiter, 20.0, 3) == 0
    assert wait_s(limiter, 20.0, 3, "other") == 0


def test_the_bucket_that_was_used_the_longest_ago_is_dropped() -> None:
    limiter = RateLimiter()
    for number in range(MAX_BUCKETS):
        assert wait_s(limiter, 0.0, 2, str(number)) == 0
    assert wait_s(limiter, 0.0, 2, "0") == 0
    assert wait_s(limiter, 0.0, 2, "new") == 0
    assert wait_s(limiter, 0.0, 2, "0") == 30
    assert [wait_s(limiter, 0.0, 2, "1") for _ in range(3)] == [0, 0, 30]


def test_a_request_for_a_student_does_not_wait_for_a_slot_of_the_model() -> None:
    queue = Office().queue
    first, quick = request(number=1, order=(5, 1.0, 1)), request(number=2, order=(5, 2.0, 2), answerer="student-t")
    for one in (first, quick):
        queue.put(one)
    assert queue.take({"student-t"}, first_attempts_only=False) is quick
    assert queue.take({"student-t"}, first_attempts_only=False) is None
    assert queue.take({LARGE}, first_attempts_only=False) is first


def test_work_of_the_model_is_not_ahead_of_a_request_for_a_student() -> None:
    office = Office()
    for _ in range(5):
        office.enter(60.0)
    newcomer = request(arrived_at=0.0, deadline_at=1.5, answerer="student-t")
    assert office.queue.admit(newcomer, EngineLoad(slots=8), 0.0) == []
    office.refused(1.5)
