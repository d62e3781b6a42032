"""Timelines of an engine that runs one request at a time, one second each, unless a test says otherwise."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.core.messages import Code, Error, Refusal
from edge_agent.requests.admission import WITHDRAW_DEPTH, Admission
from edge_agent.requests.forecast import Ahead
from edge_agent.requests.latency import BELIEVED_PER_RUN_S, STALE_AFTER_S, Latency
from edge_agent.requests.request_queue import TURN, Request, RequestQueue
from tests.helpers.support import request

KIND = request().kind


class Office:
    """A queue before an engine of which everything is known."""

    def __init__(self, *, capacity: int = 100, slots: int = 1, share_s: float | None = 1.0) -> None:
        self.queue = RequestQueue(capacity)
        self.latency = Latency()
        self.slots = slots
        self.running = 0
        if share_s is not None:
            self.latency.measure(KIND, share_s=share_s, run_s=share_s, batch=1, now=0.0)

    def admission(self, now: float = 0.0) -> Admission:
        ahead = Ahead(slots=self.slots)
        for _ in range(self.running):
            ahead.run(self.latency.expect(KIND), elapsed_s=0.0, beside=1)
        return Admission(self.queue, ahead, self.latency, now)

    def enter(self, deadline_s: float, priority: int = 5, now: float = 0.0, **fields: Any) -> Request:
        """One that is admitted and that nobody has to go for. Raises Refusal."""
        one = request(arrived_at=now, deadline_at=now + deadline_s, priority=priority, **fields)
        older, losers = self.admission(now).enter(one)
        assert (older, losers) == (None, [])
        return one

    def displaced_by(self, deadline_s: float, priority: int, now: float = 0.0) -> list[tuple[Request, Error]]:
        one = request(arrived_at=now, deadline_at=now + deadline_s, priority=priority)
        return self.admission(now).enter(one)[1]

    def pass_over_until_a_turn_is_due(self, starting: int = 0) -> None:
        for _ in range(TURN):
            self.queue.add(request(priority=starting))
            self.queue.turn_away(request(priority=9))
            self.queue.take()

    def refused(self, deadline_s: float, priority: int = 5, now: float = 0.0) -> Error:
        waiting = list(self.queue)
        with pytest.raises(Refusal) as refusal:
            self.enter(deadline_s, priority, now)
        assert list(self.queue) == waiting
        return refusal.value.error


class TestWhoIsAdmitted:
    def test_an_idle_engine_takes_whatever_is_not_hopeless(self) -> None:
        office = Office()
        office.latency.measure(KIND, share_s=3.0, run_s=3.0, batch=1, now=0.0)
        assert office.latency.expect(KIND).share_s == 2.0  # type: ignore[union-attr]
        office.enter(1.0)

    def test_a_deadline_that_not_even_an_idle_engine_can_meet_is_refused_until_one_is_to_be_tried(self) -> None:
        office = Office()
        error = office.refused(0.02)
        assert (error.code, error.retry_after_s) == (Code.DEADLINE_UNREACHABLE, BELIEVED_PER_RUN_S)
        assert error.message == (
            "takes at least 1000 ms even when nothing else runs, too long for the deadline of 20 ms (request)"
        )
        office.enter(0.02, now=BELIEVED_PER_RUN_S)

    def test_one_that_is_hopeless_is_told_so_whatever_is_before_it(self) -> None:
        office = Office()
        office.running = 1
        for _ in range(7):
            office.enter(60.0)
        error = office.refused(0.5)
        assert (error.code, error.retry_after_s) == (Code.DEADLINE_UNREACHABLE, 8.0)
        assert "even when nothing else runs" in error.message

    def test_a_deadline_that_can_be_met_is(self) -> None:
        office = Office()
        office.running = 1
        office.enter(2.0)
        office.enter(3.0)

    def test_a_deadline_that_cannot_be_met_is_refused_with_the_estimate_and_a_time(self) -> None:
        office = Office()
        office.running = 1
        for _ in range(3):
            office.enter(60.0)
        error = office.refused(1.5)
        assert (error.code, error.retry_after_s) == (Code.DEADLINE_UNREACHABLE, 0.5)
        assert error.message == "would be answered after about 2000 ms, too late for the deadline of 1500 ms (request)"

    def test_only_those_who_come_first_count(self) -> None:
        office = Office()
        office.running = 1
        for _ in range(10):
            office.enter(60.0)
        office.enter(2.0)

    def test_after_the_time_that_was_told_it_is_admitted(self) -> None:
        office = Office()
        office.running = 1
        for number in range(5):
            office.enter(2.0 + number)
        error = office.refused(6.5)
        assert error.retry_after_s == 0.5
        # Half a second later the one that runs has half of its work left.
        later = Admission(office.queue, Ahead(slots=1, count=1, work_s=0.5), office.latency, 0.5)
        later.enter(request(arrived_at=0.5, deadline_at=7.0))

    def test_one_whose_own_run_is_too_long_is_told_when_the_engine_will_be_idle(self) -> None:
        office = Office()
        office.running = 1
        for _ in range(3):
            office.enter(60.0)
        office.latency.measure(KIND, share_s=3.0, run_s=3.0, batch=1, now=0.0)
        assert office.refused(1.9).retry_after_s == 8.0

    def test_the_unknown_is_admitted(self) -> None:
        office = Office(share_s=None)
        office.running = 1
        for _ in range(50):
            office.enter(0.01)

    def test_the_first_flood_is_not_refused_for_answers_as_long_as_they_may_be(self) -> None:
        office = Office(share_s=None, slots=4)
        office.latency.set_rates(800.0, 120.0)
        office.running = 4
        for _ in range(4):
            office.enter(6.0)
        assert office.refused(0.5).code is Code.DEADLINE_UNREACHABLE

    def test_what_was_measured_long_ago_refuses_nobody(self) -> None:
        office = Office()
        office.running = 1
        office.enter(0.1, now=STALE_AFTER_S)

    def test_while_there_is_no_worker_nobody_is_refused_for_a_deadline(self) -> None:
        office = Office(slots=0, capacity=2)
        office.enter(0.1)
        office.enter(0.1)
        assert office.refused(0.1).code is Code.LOADING

    def test_a_newcomer_must_not_break_the_promise_given_to_one_of_its_class(self) -> None:
        office = Office()
        office.running = 1
        promised = office.enter(2.5)
        error = office.refused(2.4)
        assert error.code is Code.DEADLINE_UNREACHABLE
        assert error.retry_after_s == 2.0
        assert "after about 2000 ms, within the deadline of 2400 ms (request), but make an admitted" in error.message
        assert list(office.queue) == [promised]

    def test_nor_one_of_a_more_urgent_class(self) -> None:
        office = Office(slots=1)
        office.running = 1
        office.enter(2.5, priority=1)
        office.enter(3.5, priority=5)
        assert office.refused(2.9, priority=1).code is Code.DEADLINE_UNREACHABLE

    def test_one_that_is_late_already_keeps_nobody_out(self) -> None:
        office = Office()
        office.running = 1
        slow = request(deadline_at=3.5, run=replace(request().run, max_tokens=4096))
        office.latency.measure(slow.kind, share_s=3.0, run_s=3.0, batch=1, now=0.0)
        office.queue.add(slow)
        office.enter(3.0)


class TestWhoHasToGo:
    def test_a_more_urgent_one_displaces_those_it_makes_late(self) -> None:
        office = Office()
        office.running = 1
        tight, loose = office.enter(2.5, priority=5), office.enter(60.0, priority=5)
        ((loser, error),) = office.displaced_by(2.0, priority=0)
        assert loser is tight
        # The one that runs, the urgent one, and the loose one of its class.
        assert (error.code, error.retry_after_s) == (Code.DEADLINE_UNREACHABLE, 3.0)
        assert (
            error.message
            == "displaced, would now be answered after about 3000 ms, too late for the deadline of 2500 ms (request)"
        )
        assert [one.priority for one in office.queue] == [0, 5]
        assert loose in list(office.queue)

    def test_what_a_displaced_one_would_have_done_does_not_push_others_back(self) -> None:
        office = Office()
        office.running = 1
        office.enter(2.5)
        kept = office.enter(3.5)
        assert len(office.displaced_by(2.0, priority=0)) == 1
        assert list(office.queue)[-1] is kept

    def test_a_displaced_one_comes_back_when_its_class_and_the_more_urgent_are_done(self) -> None:
        office = Office()
        office.running = 1
        for _ in range(4):
            office.enter(60.0, priority=0)
        office.enter(6.5, priority=5)
        for _ in range(3):
            office.enter(60.0, priority=6)
        ((_, error),) = office.displaced_by(6.4, priority=0)
        assert error.retry_after_s == 6.0

    def test_who_is_displaced_together_leaves_no_work(self) -> None:
        office = Office()
        office.running = 1
        for _ in range(2):
            office.queue.add(request(deadline_at=2.5, priority=5))
        losers = office.displaced_by(2.0, priority=0)
        assert [error.retry_after_s for _, error in losers] == [2.0, 2.0]

    def test_in_a_full_queue_the_last_of_a_less_urgent_class_makes_room(self) -> None:
        office = Office(capacity=2)
        office.running = 1
        first, last = office.enter(50.0, priority=5), office.enter(60.0, priority=5)
        ((loser, error),) = office.displaced_by(40.0, priority=4)
        assert loser is last
        assert (error.code, error.retry_after_s) == (Code.QUEUE_FULL, 3.0)
        assert first in list(office.queue)

    @pytest.mark.parametrize("priority", [5, 6])
    def test_in_a_full_queue_one_that_is_not_more_urgent_is_refused(self, priority: int) -> None:
        office = Office(capacity=2)
        office.running = 1
        office.enter(50.0, priority=5)
        office.enter(60.0, priority=5)
        error = office.refused(40.0, priority=priority)
        assert (error.code, error.retry_after_s) == (Code.QUEUE_FULL, 3.0)

    def test_before_anything_was_measured_the_time_to_come_back_is_a_second(self) -> None:
        office = Office(capacity=1, share_s=None)
        office.running = 1
        office.enter(60.0)
        assert office.refused(60.0).retry_after_s == 1.0

    def test_a_newer_reading_takes_the_place_of_the_one_it_supersedes(self) -> None:
        office = Office()
        office.running = 1
        old = office.enter(5.0, supersedes=("t", "s"))
        other = office.enter(6.0)
        new = request(deadline_at=9.0, supersedes=("t", "s"))
        assert office.admission().enter(new) == (old, [])
        assert list(office.queue) == [new, other]

    def test_one_that_is_refused_supersedes_nobody(self) -> None:
        office = Office()
        office.running = 1
        old = office.enter(5.0, supersedes=("t", "s"))
        with pytest.raises(Refusal):
            office.admission().enter(request(deadline_at=1.5, supersedes=("t", "s")))
        assert list(office.queue) == [old]
        assert office.queue.latest(("t", "s")) is old


class TestPromisesThatCannotBeKept:
    def test_who_will_miss_his_deadline_is_told_before_it_passes(self) -> None:
        office = Office()
        office.running = 1
        late, fine = request(deadline_at=1.9), request(deadline_at=2.0)
        office.queue.add(late)
        office.queue.add(fine)
        ((loser, error),) = office.admission().withdraw()
        assert loser is late
        assert "delayed, would now be answered after about 2000 ms, too late" in error.message
        assert error.retry_after_s == 2.0
        assert list(office.queue) == [fine]

    def test_the_engine_is_not_given_what_it_cannot_end_in_time(self) -> None:
        office = Office()
        hopeless, next_one = request(deadline_at=0.9), request(deadline_at=1.0)
        office.queue.add(hopeless)
        office.queue.add(next_one)
        assert [loser for loser, _ in office.admission().withdraw()] == [hopeless]
        assert list(office.queue) == [next_one]

    def test_while_there_is_no_worker_they_are_kept(self) -> None:
        office = Office(slots=0)
        office.queue.add(request(deadline_at=0.5))
        assert office.admission().withdraw() == []

    def test_those_far_from_the_front_are_looked_at_later(self) -> None:
        office = Office(capacity=1000)
        office.running = 1
        for _ in range(WITHDRAW_DEPTH + 5):
            office.queue.add(request(deadline_at=0.5))
        assert len(office.admission().withdraw()) == WITHDRAW_DEPTH
        assert len(office.admission().withdraw()) == 5

    def test_the_unknown_and_the_stale_are_kept(self) -> None:
        for office, now in ((Office(share_s=None), 0.0), (Office(), STALE_AFTER_S)):
            office.running = 1
            office.queue.add(request(deadline_at=now + 0.5))
            assert office.admission(now).withdraw() == []


class TestTurns:
    """An endless flood of urgent requests, and one that is not."""

    def test_one_in_so_many_starts_goes_to_the_less_urgent_that_wait(self) -> None:
        queue = RequestQueue(1000)
        for number in range(100):
            queue.add(request(priority=0, deadline_at=10.0 + number))
            queue.add(request(priority=9, deadline_at=1000.0 - number))
        started = [queue.take() for _ in range(5 * TURN)]
        priorities = [one.priority for one in started if one]
        assert priorities == ([0] * (TURN - 1) + [9]) * 5
        lax = [one for one in started if one and one.priority == 9]
        assert lax == sorted(lax, key=lambda one: one.deadline_at)

    def test_nobody_is_owed_a_turn_while_nobody_is_passed_over(self) -> None:
        queue = RequestQueue(1000)
        for _ in range(5 * TURN):
            queue.add(request(priority=0))
            queue.take()
        queue.add(request(priority=9, deadline_at=1.0))
        urgent = request(priority=0, deadline_at=60.0)
        queue.add(urgent)
        assert queue.take() is urgent

    def test_one_that_is_always_turned_away_is_let_in_in_his_turn(self) -> None:
        office = Office(capacity=3)
        office.running = 1
        for _ in range(3):
            office.enter(60.0, priority=0)
        lax_starts = []
        for start in range(5 * TURN):
            for priority in (9, 0, 0):
                with suppress(Refusal):
                    office.admission().enter(request(priority=priority, deadline_at=30.0 if priority else 60.0))
            started = office.queue.take()
            assert started is not None
            if started.priority == 9:
                lax_starts.append(start)
        assert 3 <= len(lax_starts) <= 5

    def test_a_turn_does_not_help_one_that_would_be_late_all_the_same(self) -> None:
        office = Office()
        office.running = 1
        office.pass_over_until_a_turn_is_due()
        office.enter(1.0 + 1.0, priority=0)
        error = office.refused(2.5, priority=9)
        assert error.code is Code.DEADLINE_UNREACHABLE
        assert office.queue.is_turn_of(request(priority=9))

    def test_in_his_turn_one_stays_that_would_be_displaced(self) -> None:
        office = Office()
        office.running = 1
        office.pass_over_until_a_turn_is_due()
        lax = office.enter(2.5, priority=9)
        assert office.refused(2.2, priority=0).code is Code.DEADLINE_UNREACHABLE
        assert list(office.queue) == [lax]
        assert lax.rank == 0
        assert not office.queue.is_turn_of(request(priority=9))

    def test_equals_pass_nobody_over(self) -> None:
        office = Office()
        office.running = 1
        for _ in range(3 * TURN):
            office.enter(2.5)
            office.refused(2.4)
            office.queue.take()
        assert not office.queue.is_turn_of(request(priority=5))

    def test_a_turn_is_for_those_less_urgent_than_what_starts(self) -> None:
        office = Office()
        office.pass_over_until_a_turn_is_due(starting=5)
        assert office.queue.is_turn_of(request(priority=6))
        assert not office.queue.is_turn_of(request(priority=5))


class TestWaits:
    def test_the_wait_is_the_work_of_all_that_are_here(self) -> None:
        office = Office()
        assert office.admission().wait_s == 0.0
        office.running = 1
        assert office.admission().wait_s == 1.0
        office.enter(60.0)
        assert office.admission().wait_s == 2.0
        assert office.admission().retry_after_s == 2.0

    def test_it_is_unknown_without_a_worker_or_a_measurement(self) -> None:
        assert Office(slots=0).admission().wait_s is None
        office = Office(share_s=None)
        office.running = 1
        assert office.admission().wait_s is None

    def test_a_time_to_come_back_is_never_nothing(self) -> None:
        assert Office().admission().retry_after_s == 0.1


class Shift:
    """An engine of one slot that takes a second for each request, and does so exactly."""

    def __init__(self) -> None:
        self.office = Office(capacity=8)
        self.now = self.free_at = 0.0
        self.admitted: list[Request] = []
        self.ended: list[Request] = []
        self.withdrawn: list[Request] = []

    def arrive(self, priority: int, deadline_s: float, pause_s: float) -> None:
        self.work_until(self.now + pause_s)
        self.now += pause_s
        left_s = max(0.0, self.free_at - self.now)
        running = Ahead(slots=1, count=int(left_s > 0), work_s=left_s)
        one = request(arrived_at=self.now, deadline_at=self.now + deadline_s, priority=priority)
        try:
            _, losers = Admission(self.office.queue, running, self.office.latency, self.now).enter(one)
        except Refusal:
            return
        assert all(loser.rank > one.rank for loser, _ in losers)
        self.admitted.append(one)
        self.ended += [loser for loser, _ in losers]
        if not left_s:
            self.start(self.now)

    def work_until(self, until: float) -> None:
        while self.free_at <= until and len(self.office.queue):
            admission = Admission(self.office.queue, Ahead(slots=1), self.office.latency, self.free_at)
            self.withdrawn += [loser for loser, _ in admission.withdraw()]
            self.start(self.free_at)

    def start(self, at: float) -> None:
        one = self.office.queue.take()
        if one is not None:
            self.free_at = at + 1.0
            self.ended.append(one)
            is_tried_because_idle = one.deadline_at - one.arrived_at < 1.0
            assert self.free_at <= one.deadline_at + 1e-6 or is_tried_because_idle


def arrivals_of(priorities: st.SearchStrategy[int]) -> st.SearchStrategy[list[tuple[int, float, float]]]:
    return st.lists(st.tuples(priorities, st.floats(0.1, 20), st.floats(0, 1)), max_size=60)


@settings(max_examples=100, deadline=None)
@given(arrivals_of(st.just(5)) | arrivals_of(st.integers(0, 9)))
def test_everyone_admitted_is_in_time_if_the_engine_does_as_it_was_measured(
    arrivals: list[tuple[int, float, float]],
) -> None:
    shift = Shift()
    for priority, deadline_s, pause_s in arrivals:
        shift.arrive(priority, deadline_s, pause_s)
    shift.work_until(1e9)
    assert sorted(one.number for one in shift.ended + shift.withdrawn) == [one.number for one in shift.admitted]
    if len({priority for priority, _, _ in arrivals}) == 1:  # else a turn of the less urgent may make somebody late
        assert shift.withdrawn == []
