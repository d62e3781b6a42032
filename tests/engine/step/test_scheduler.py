from __future__ import annotations

import pytest

from edge_agent.engine.step.scheduler import Admission, Linger, Reservation, Take, Turn, Turns, Want, next_batch


def test_sequences_that_write_come_before_prompts_and_prompts_fill_the_rest() -> None:
    wants = [Want(0, 1, (0,)), Want(1, 1, (0,)), Want(2, 500, (499,)), Want(3, 40, (39,))]

    assert next_batch(wants, tokens=256, outputs=8) == [Take(0, 1), Take(1, 1), Take(2, 254)]


def test_a_long_prompt_ends_and_the_next_one_begins_in_the_same_step() -> None:
    assert next_batch([Want(2, 100, (99,)), Want(3, 400, (399,))], tokens=256, outputs=8) == [
        Take(2, 100),
        Take(3, 156),
    ]


def test_without_rows_for_logits_a_prompt_stops_before_its_last_token() -> None:
    wants = [Want(0, 1, (0,)), Want(1, 1, (0,)), Want(2, 10, (9,))]

    assert next_batch(wants, tokens=256, outputs=2) == [Take(0, 1), Take(1, 1), Take(2, 9)]


def test_a_branch_is_cut_before_the_first_output_that_has_no_row() -> None:
    assert next_batch([Want(0, 4, (1, 3))], tokens=256, outputs=1) == [Take(0, 3)]
    assert next_batch([Want(0, 1, (0,)), Want(1, 1, (0,))], tokens=256, outputs=1) == [Take(0, 1)]


def test_a_small_rest_is_taken_beyond_the_budget_if_nothing_is_left_then() -> None:
    wants = [Want(0, 10, (9,)), Want(1, 60, (59,))]

    assert next_batch(wants, tokens=64, outputs=8, slack=16) == [Take(0, 10), Take(1, 60)]
    assert next_batch(wants, tokens=64, outputs=8, slack=5) == [Take(0, 10), Take(1, 54)]
    assert next_batch([*wants, Want(2, 5)], tokens=64, outputs=8, slack=16) == [Take(0, 10), Take(1, 54)]


def test_nothing_wanted_is_no_batch() -> None:
    assert next_batch([], tokens=256, outputs=8) == []


def timeline(admission: Admission, requests: dict[int, int], *, pinned: int = 0) -> list[int]:
    """The requests that start now, given what each would reserve."""
    return [key for key in admission.candidates() if admission.start(Reservation(key, requests[key]), pinned)]


def test_requests_join_while_places_and_cells_last_and_when_one_leaves() -> None:
    admission = Admission(max_active=2, cells=1000)
    requests = {1: 300, 2: 300, 3: 300}
    for key in requests:
        admission.offer(key)

    assert timeline(admission, requests) == [1, 2]
    assert (admission.active, admission.waiting, admission.free_cells(0)) == (2, 1, 400)
    assert timeline(admission, requests) == []
    admission.leave(1)
    assert timeline(admission, requests) == [3]


def test_who_does_not_fit_is_overtaken_and_starts_when_there_is_room() -> None:
    admission = Admission(max_active=4, cells=1000)
    requests = {1: 600, 2: 600, 3: 10}
    for key in requests:
        admission.offer(key)

    assert timeline(admission, requests) == [1, 3]
    admission.leave(1)
    assert timeline(admission, requests) == [2]


def test_who_was_overtaken_often_enough_is_waited_for() -> None:
    admission = Admission(max_active=4, cells=1000)
    requests = {1: 600, 2: 600} | dict.fromkeys(range(3, 40), 10)
    admission.offer(1)
    admission.offer(2)
    assert timeline(admission, requests) == [1]

    for key in range(3, 3 + Admission.MOST_OVERTAKEN):
        admission.offer(key)
        assert timeline(admission, requests) == [key]
        admission.leave(key)
    admission.offer(39)

    assert timeline(admission, requests) == []
    admission.leave(1)
    assert timeline(admission, requests) == [2]
    assert timeline(admission, requests) == [39]


def test_pinned_prefixes_take_cells_away() -> None:
    admission = Admission(max_active=4, cells=1000)
    admission.offer(1)

    assert timeline(admission, {1: 900}, pinned=200) == []
    assert timeline(admission, {1: 900}, pinned=100) == [1]


def test_a_request_that_is_put_back_is_the_first_to_start_again() -> None:
    admission = Admission(max_active=1, cells=1000)
    for key in (1, 2):
        admission.offer(key)
    assert timeline(admission, {1: 1, 2: 1}) == [1]

    admission.put_back(1)

    assert timeline(admission, {1: 1, 2: 1}) == [1]


def test_a_waiting_request_can_leave_and_an_unknown_one_is_ignored() -> None:
    admission = Admission(max_active=1, cells=10)
    admission.offer(1)

    admission.leave(1)
    admission.leave(7)

    assert admission.candidates() == []


def test_narrow_steps_are_for_all() -> None:
    turns = Turns(64, most_prompt_steps=2)

    assert turns.next(8, 55, ends_one=True) is Turn.ALL
    assert turns.next(0, 500, ends_one=True) is Turn.ALL
    assert turns.next(70, 0, ends_one=True) is Turn.ALL


def test_wide_steps_are_for_prompts_or_for_those_that_write_who_wait_for_a_bounded_time() -> None:
    turns = Turns(64, most_prompt_steps=2)

    assert [turns.next(8, 500, ends_one=True) for _ in range(5)] == [
        Turn.PROMPTS,
        Turn.PROMPTS,
        Turn.WRITING,
        Turn.PROMPTS,
        Turn.PROMPTS,
    ]
    assert turns.next(8, 10, ends_one=True) is Turn.ALL
    assert turns.next(8, 500, ends_one=True) is Turn.PROMPTS, "whoever writes has had a step"


def test_a_long_prompt_gets_every_other_step() -> None:
    turns = Turns(64, most_prompt_steps=5)

    assert [turns.next(8, 500, ends_one=False) for _ in range(4)] == [
        Turn.PROMPTS,
        Turn.WRITING,
        Turn.PROMPTS,
        Turn.WRITING,
    ]


def test_as_many_are_waited_for_as_were_answered() -> None:
    linger = Linger(share=0.2, way_s=0.01)
    assert linger.seconds(now=5.0) == 0

    linger.answered(2, of=8, step_s=0.1, now=10.0)

    assert linger.seconds(now=10.001) == pytest.approx(0.004)
    linger.came()
    assert linger.seconds(now=10.001) == pytest.approx(0.004)
    linger.came()
    assert linger.seconds(now=10.001) == 0


def test_nobody_is_waited_for_longer_than_it_is_worth() -> None:
    linger = Linger(share=0.2, way_s=0.01)

    linger.answered(1, of=8, step_s=0.1, now=10.0)
    assert linger.seconds(now=10.003) == 0
    linger.answered(3, of=8, step_s=60.0, now=20.0)
    assert linger.seconds(now=20.0) == pytest.approx(0.03)
