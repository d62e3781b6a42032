from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.requests.queue import RequestQueue
from edge_agent.requests.request import Request
from tests.helpers.support import request


def queue_of(*requests: Request) -> RequestQueue:
    queue = RequestQueue(10)
    for one in requests:
        queue.add(one)
    return queue


def drained(queue: RequestQueue) -> list[Request]:
    return list(iter(lambda: queue.take(first_attempts_only=False), None))


def test_an_empty_queue_gives_nothing() -> None:
    queue = queue_of()
    assert queue.take(first_attempts_only=False) is None
    assert (queue.next_deadline_at(), queue.oldest_ms(5.0), queue.expire(5.0)) == (None, None, [])


def test_a_request_expires_at_its_deadline() -> None:
    short, long = request(deadline_at=10.0), request(deadline_at=20.0)
    queue = queue_of(short, long)
    assert queue.expire(9.999) == []
    assert queue.next_deadline_at() == 10.0
    assert queue.expire(10.0) == [short]
    assert drained(queue) == [long]


def test_a_request_put_back_keeps_its_place_among_equals() -> None:
    lost, other = request(), request()
    queue = queue_of(lost, other)
    assert queue.take(first_attempts_only=False) is lost
    queue.add(lost)
    assert drained(queue) == [lost, other]


def test_one_that_ran_before_is_not_started_beside_others() -> None:
    queue = queue_of(request(attempts=1))
    assert queue.take(first_attempts_only=True) is None
    assert queue.take(first_attempts_only=False) is not None


def test_the_latest_of_a_source_is_known_while_it_waits() -> None:
    first = request(source="s")
    queue = queue_of(first, request(source="other"))
    assert queue.latest("s") is first
    queue.remove(first)
    assert queue.latest("s") is None


def test_the_oldest_is_the_one_that_arrived_first() -> None:
    queue = queue_of(request(arrived_at=3.0), request(arrived_at=1.0), request(arrived_at=2.0))
    assert queue.oldest_ms(4.5) == 3500.0


_STEPS = st.lists(
    st.tuples(st.just("add"), st.integers(0, 9), st.integers(1, 30))
    | st.tuples(st.just("take"), st.just(0), st.just(0))
    | st.tuples(st.just("expire"), st.just(0), st.integers(0, 30))
    | st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
    max_size=40,
)


@settings(max_examples=50)
@given(_STEPS)
def test_requests_start_by_priority_then_deadline_then_arrival(steps: list[tuple[str, int, int]]) -> None:
    queue, model = RequestQueue(1000), list[Request]()
    for act, priority, at in steps:
        match act:
            case "add":
                model.append(request(priority=priority, deadline_at=float(at)))
                queue.add(model[-1])
            case "take":
                expected = min(model, key=lambda r: (r.priority, r.deadline_at, r.number), default=None)
                assert queue.take(first_attempts_only=False) is expected
                if expected is not None:
                    model.remove(expected)
            case "expire":
                assert set(queue.expire(float(at))) == {r for r in model if r.deadline_at <= at}
                model = [r for r in model if r.deadline_at > at]
            case "remove":
                gone = queue.remove_where(lambda r, p=priority: r.priority == p)  # type: ignore[misc]
                assert set(gone) == {r for r in model if r.priority == priority}
                model = [r for r in model if r.priority != priority]
        assert queue.waiting == sorted(model, key=lambda r: r.place)
        assert queue.next_deadline_at() == min((r.deadline_at for r in model), default=None)
