from __future__ import annotations

import pytest

from edge_agent.requests.forecast import Ahead
from edge_agent.requests.latency import Expectation, Latency


def expectation(share_s: float, run_s: float | None = None, batch: int = 1, count: int = 1) -> Expectation:
    expected = Expectation()
    for _ in range(count):
        expected.measure(share_s=share_s, run_s=share_s if run_s is None else run_s, batch=batch, now=0.0)
    return expected


def test_on_an_idle_engine_an_answer_takes_one_run() -> None:
    ahead = Ahead(slots=4)
    assert ahead.likely_s(expectation(0.2)) == 0.2
    assert ahead.cautious_s(expectation(0.2)) == 0.2


def test_with_a_free_slot_there_is_no_wait_but_the_engine_is_shared() -> None:
    ahead = Ahead(slots=4)
    ahead.run(expectation(1.0), elapsed_s=0.0, beside=1)
    assert ahead.cautious_s(expectation(0.2)) == pytest.approx(0.4)


def test_without_a_free_slot_the_work_ahead_comes_first() -> None:
    ahead = Ahead(slots=1)
    ahead.run(expectation(1.0), elapsed_s=0.0, beside=1)
    ahead.wait(expectation(2.0), count=3)
    assert ahead.count == 4
    assert ahead.cautious_s(expectation(0.5)) == pytest.approx(1 + 3 * 2 + 0.5)
    assert ahead.likely_s(expectation(0.5)) == pytest.approx(1 + 3 * 2 + 0.5)


@pytest.mark.parametrize(("elapsed_s", "left_s"), [(0.0, 1.0), (1.0, 0.5), (2.0, 0.0), (6.0, 2.0)])
def test_work_that_runs_shrinks_with_its_part_of_the_engine_until_it_is_overdue(
    elapsed_s: float, left_s: float
) -> None:
    ahead = Ahead(slots=2)
    ahead.run(expectation(1.0, run_s=2.0, batch=2), elapsed_s=elapsed_s, beside=2)
    assert ahead.work_s == pytest.approx(left_s)


def test_the_likely_estimate_does_not_count_what_runs_beside_twice() -> None:
    """Four run at once, one second of the engine each: in a steady state one ends each second, each runs for four."""
    ahead = Ahead(slots=4)
    own = expectation(1.0, run_s=4.0, batch=4)
    for elapsed_s in (0.0, 1.0, 2.0, 3.0):
        ahead.run(own, elapsed_s=elapsed_s, beside=4)
    assert ahead.work_s == pytest.approx(2.5)
    assert ahead.likely_s(own) == pytest.approx(2.5 - 1.5 + 4.0)
    assert ahead.cautious_s(own) == pytest.approx(2.5 + 4.0)


def test_caution_grows_with_the_spread_of_what_is_ahead() -> None:
    even, uneven = expectation(1.0), Expectation()
    for share_s in (0.5, 1.5):
        uneven.measure(share_s=share_s, run_s=share_s, batch=1, now=0.0)
    own = expectation(1.0)
    for expected, margin_s in ((even, 0.0), (uneven, 2 * (4 * 0.25) ** 0.5)):
        ahead = Ahead(slots=1)
        ahead.wait(expected, count=4)
        assert ahead.cautious_s(own) == pytest.approx(4 + 1 + margin_s)


def test_a_guess_is_not_topped_by_caution() -> None:
    guess = Expectation(share_s=1.0)
    ahead = Ahead(slots=4)
    ahead.wait(guess, count=6)
    assert ahead.cautious_s(guess) == ahead.likely_s(guess) == pytest.approx(6 - 1.5 + 4)


def test_what_is_unknown_is_counted_and_said_to_be_so() -> None:
    ahead = Ahead(slots=1)
    ahead.wait(expectation(1.0))
    assert ahead.is_known
    ahead.run(None, elapsed_s=1.0, beside=1)
    assert (ahead.count, ahead.work_s, ahead.is_known) == (2, 1.0, False)


def test_a_backlog_is_added_by_kinds_and_leaves_the_original_alone() -> None:
    latency = Latency()
    latency.measure(("a", 1, 1), share_s=0.5, run_s=0.5, batch=1, now=0.0)
    running = Ahead(slots=2, count=2, work_s=1.0)
    after = running.after_all({("a", 1, 1): 4, ("b", 1, 1): 2}, latency)
    assert (after.count, after.work_s, after.is_known) == (8, 3.0, False)
    assert (running.count, running.work_s, running.is_known) == (2, 1.0, True)
