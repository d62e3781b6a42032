from __future__ import annotations

from edge_agent.mqtt.first_in_line import DOUBTED_AFTER, MAX_IN_FLIGHT, SUSPECTED_AFTER, FirstInLine


def broken(first: FirstInLine, waiting: dict[int, str], *, is_answered: bool = True) -> None:
    first.connected(waiting)
    if is_answered:
        first.answered()
    first.broken(waiting)


def test_what_is_first_as_connections_break_one_after_the_other_is_suspected_once() -> None:
    first, waiting = FirstInLine(), {7: "reply", 8: "reply"}
    for _ in range(SUSPECTED_AFTER):
        assert first.suspect(waiting) is None
        broken(first, waiting)
    assert first.suspect({8: "reply"}) is None
    assert first.suspect(waiting) == 7
    assert first.suspect(waiting) is None


def test_nothing_is_suspected_on_a_link_that_takes_something_forward_each_time_or_answers_nothing() -> None:
    first = FirstInLine()
    for number in range(5 * SUSPECTED_AFTER):
        broken(first, {number // 2: "reply", 99: "reply"})
        assert first.suspect({number // 2: "reply"}) is None
    for _ in range(5 * SUSPECTED_AFTER):
        broken(first, {99: "reply"}, is_answered=False)
        assert first.suspect({99: "reply"}) is None


def test_what_crossed_with_the_end_goes_one_by_one_until_all_of_it_is_through() -> None:
    first, waiting = FirstInLine(), dict.fromkeys(range(3), "reply")
    for _ in range(DOUBTED_AFTER):
        first.connected(waiting)
        assert not first.is_in_doubt(waiting)
        first.broken(waiting)
    first.connected(waiting)
    waiting[3] = "published in the meantime"
    for number in range(3):
        assert first.is_in_doubt(waiting)
        del waiting[number]
    assert not first.is_in_doubt(waiting)


def test_what_stood_behind_all_that_was_out_is_not_held_up_by_doubt() -> None:
    first, waiting = FirstInLine(), dict.fromkeys(range(1000), "reply")
    for _ in range(DOUBTED_AFTER):
        first.connected(waiting)
        first.broken(waiting)
    first.connected(waiting)
    for number in range(MAX_IN_FLIGHT):
        assert first.is_in_doubt(waiting)
        del waiting[number]
    assert not first.is_in_doubt(waiting)
