from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.requests.request_queue import Request, RequestQueue
from tests.helpers.support import request


def queue_of(*requests: Request, capacity: int = 10) -> RequestQueue:
    queue = RequestQueue(capacity)
    for one in requests:
        queue.add(one)
    return queue


def drained(queue: RequestQueue) -> list[Request]:
    return list(iter(queue.take, None))


def test_an_empty_queue_gives_nothing() -> None:
    queue = queue_of()
    assert queue.take() is None
    assert queue.next_deadline_at() is None
    assert queue.oldest_ms(5.0) is None
    assert queue.expire(5.0) == []
    assert len(queue) == 0


def test_the_most_urgent_priority_goes_first_whatever_its_deadline() -> None:
    late, urgent = request(priority=5, deadline_at=1.0), request(priority=0, deadline_at=100.0)
    assert drained(queue_of(late, urgent)) == [urgent, late]


def test_within_a_priority_the_earliest_deadline_goes_first() -> None:
    third, first, second = request(deadline_at=30.0), request(deadline_at=10.0), request(deadline_at=20.0)
    assert drained(queue_of(third, first, second)) == [first, second, third]


def test_equals_go_in_order_of_arrival() -> None:
    requests = [request() for _ in range(5)]
    assert drained(queue_of(*requests)) == requests


def test_a_queue_is_full_at_its_capacity() -> None:
    queue = queue_of(request(), capacity=2)
    assert not queue.is_full
    queue.add(request())
    assert queue.is_full
    queue.take()
    assert not queue.is_full


def test_a_request_expires_at_its_deadline_and_is_not_given_out() -> None:
    short, long = request(deadline_at=10.0), request(deadline_at=20.0)
    queue = queue_of(short, long)
    assert queue.expire(9.999) == []
    assert queue.next_deadline_at() == 10.0
    assert queue.expire(10.0) == [short]
    assert queue.next_deadline_at() == 20.0
    assert drained(queue) == [long]


def test_removed_requests_come_in_order_of_arrival_and_are_not_given_out() -> None:
    kept, first, second = request(), request(priority=9), request(priority=0)
    queue = queue_of(kept, first, second)
    assert queue.remove(lambda one: one is not kept) == [first, second]
    assert drained(queue) == [kept]


def test_a_request_put_back_is_given_out_again() -> None:
    lost, other = request(deadline_at=10.0), request(deadline_at=20.0)
    queue = queue_of(lost, other, capacity=2)
    assert queue.take() is lost
    queue.add(request(deadline_at=30.0))
    queue.add(lost)
    assert len(queue) == 3
    assert queue.take() is lost


def test_a_request_put_back_keeps_its_place_among_equals() -> None:
    lost, other = request(), request()
    queue = queue_of(lost, other)
    assert queue.take() is lost
    queue.add(lost)
    assert drained(queue) == [lost, other]


def test_what_comes_before_a_place_and_what_behind_it() -> None:
    requests = [request(deadline_at=float(number)) for number in range(10)]
    queue = queue_of(*reversed(requests))
    for number, one in enumerate(requests):
        assert sum(queue.before(one.place).values()) == number
        assert list(queue.behind(one.place)) == requests[number:]
    assert list(queue) == requests


def test_those_before_a_place_are_counted_by_kind() -> None:
    short, long = request(), request(run=replace(request().run, max_tokens=4096))
    queue = queue_of(short, long, request(deadline_at=90.0))
    place = request(deadline_at=70.0).place
    assert queue.before(place) == {short.kind: 1, long.kind: 1}
    assert queue.kinds == {short.kind: 2, long.kind: 1}


def test_the_least_urgent_is_the_last_of_the_last_class() -> None:
    assert queue_of().least_urgent() is None
    last = request(priority=7, deadline_at=2.0)
    assert (
        queue_of(request(priority=5, deadline_at=9.0), last, request(priority=7, deadline_at=1.0)).least_urgent()
        is last
    )


def test_the_latest_of_a_source_is_known_while_it_waits() -> None:
    one = request(supersedes=("t", "s"))
    queue = queue_of(one, request(supersedes=("t", "other")))
    assert queue.latest(("t", "s")) is one
    queue.drop(one)
    assert queue.latest(("t", "s")) is None


def test_a_promoted_request_starts_by_its_deadline_among_the_most_urgent() -> None:
    first, last = request(priority=0, deadline_at=1.0), request(priority=0, deadline_at=9.0)
    lax, laxer = request(priority=9, deadline_at=5.0), request(priority=8, deadline_at=6.0)
    queue = queue_of(first, last, lax, laxer)
    queue.promote()
    assert list(queue) == [first, lax, last, laxer]


def test_the_oldest_is_the_one_that_arrived_first() -> None:
    queue = queue_of(request(arrived_at=3.0), request(arrived_at=1.0), request(arrived_at=2.0))
    assert queue.oldest_ms(4.5) == 3500.0


def test_what_was_removed_does_not_pile_up() -> None:
    queue = RequestQueue(10)
    for number in range(1000):
        queue.add(request(deadline_at=float(number)))
        queue.expire(float(number))
    assert len(queue) == 0
    assert len(queue._deadlines) < 50
    assert not queue._places
    assert not queue.kinds


_STEPS = st.lists(
    st.tuples(st.just("add"), st.integers(0, 9), st.integers(1, 30))
    | st.tuples(st.just("take"), st.just(0), st.just(0))
    | st.tuples(st.just("expire"), st.just(0), st.integers(0, 30))
    | st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
    max_size=40,
)


@settings(max_examples=50)
@given(_STEPS)
def test_the_queue_behaves_like_a_sorted_list(steps: list[tuple[str, int, int]]) -> None:
    queue, model = RequestQueue(1000), list[Request]()
    for act, priority, at in steps:
        match act:
            case "add":
                added = request(priority=priority, deadline_at=float(at))
                queue.add(added)
                model.append(added)
            case "take":
                queue._passed_over = 0  # turns have tests of their own
                expected = min(model, key=lambda r: (r.priority, r.deadline_at, r.number), default=None)
                assert queue.take() is expected
                if expected is not None:
                    model.remove(expected)
            case "expire":
                expired = sorted((r for r in model if r.deadline_at <= at), key=lambda r: (r.deadline_at, r.number))
                assert queue.expire(float(at)) == expired
                model = [r for r in model if r.deadline_at > at]
            case "remove":
                gone = [r for r in model if r.priority == priority]
                assert queue.remove(lambda r, p=priority: r.priority == p) == gone  # type: ignore[misc]
                model = [r for r in model if r.priority != priority]
        assert len(queue) == len(model)
        assert queue.next_deadline_at() == min((r.deadline_at for r in model), default=None)
        assert list(queue) == sorted(model, key=lambda r: r.place)
        assert sum(queue.kinds.values()) == len(model)
