from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.protocol import ChatMessage, LabelsPlan, Run, TextPlan
from edge_agent.requests.forecast import (
    BELIEVED_PER_RUN_S,
    BELIEVED_S,
    WINDOW,
    Backlog,
    Expectation,
    Forecast,
    kind_of,
)
from edge_agent.requests.request import Kind

KIND: Kind = ("report", 5, 9)
OTHER: Kind = ("report", 5, 3)


def run(user: str, **fields: Any) -> Run:
    messages = (ChatMessage(role="system", content="s" * 1000), ChatMessage(role="user", content=user))
    return Run(**{"id": 1, "task": "report", "messages": messages, "plan": TextPlan(), **fields})


def measured(*values: tuple[float, float, int], at: float = 0.0) -> Expectation:
    expected = Expectation()
    for share_s, run_s, batch in values:
        expected.measure(share_s=share_s, run_s=run_s, batch=batch, now=at)
    return expected


def share_s(forecast: Forecast, kind: Kind = KIND) -> float | None:
    expected = forecast.expect(kind)
    return None if expected is None else expected.share_s


def test_a_kind_is_the_task_and_the_sizes_that_count() -> None:
    assert kind_of(run("x" * 20)) == kind_of(run("y" * 31))
    assert kind_of(run("x" * 20)) != kind_of(run("x" * 32))
    assert kind_of(run("x", max_tokens=16)) != kind_of(run("x", max_tokens=256))
    assert kind_of(run("x")) != kind_of(run("x", task="other"))
    plan = LabelsPlan(labels=("a", "b"))
    assert kind_of(run("x", plan=plan, max_tokens=16)) == kind_of(run("x", plan=plan, max_tokens=256))


def test_the_first_shares_are_averaged_and_later_ones_smoothed() -> None:
    assert measured((1.0, 1, 1), (3.0, 1, 1)).share_s == pytest.approx(2.0)
    expected = measured(*[(1.0, 1.0, 1)] * 50, (11.0, 1.0, 1))
    assert expected.share_s == pytest.approx(2.0)
    assert expected.variance == pytest.approx(0.9 * 0.1 * 100)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=100))
def test_the_mean_stays_between_what_was_measured(shares: list[float]) -> None:
    expected = measured(*[(share, 1.0, 1) for share in shares])
    assert min(shares) - 1e-9 <= expected.share_s <= max(shares) + 1e-9
    assert expected.variance >= 0


def test_a_run_is_estimated_from_runs_with_as_few_beside_them_if_there_are_any() -> None:
    expected = measured(*[(0.1, 0.1, 1)] * 10, *[(0.1, 0.4, 4)] * 10)
    assert (expected.run_s(90, 1), expected.run_s(90, 4)) == (0.1, 0.4)
    assert measured((0.1, 0.4, 4)).run_s(50, 1) == 0.4


def test_runs_are_forgotten_after_a_while() -> None:
    assert measured((0.1, 9.0, 1), *[(0.1, 0.1, 1)] * WINDOW).run_s(100, 1) == 0.1


def test_a_figure_is_believed_the_longer_the_more_runs_are_behind_it() -> None:
    assert measured((9.0, 9.0, 1)).believed_until == BELIEVED_PER_RUN_S
    assert measured(*[(0.1, 0.1, 1)] * 50, at=100.0).believed_until == 100.0 + BELIEVED_S


def test_another_kind_of_the_task_is_better_than_nothing() -> None:
    forecast = Forecast()
    assert forecast.expect(KIND) is None
    forecast.measure(KIND, share_s=0.5, run_s=1.0, batch=1, now=0.0)
    assert share_s(forecast, OTHER) == 0.5
    forecast.measure(OTHER, share_s=0.1, run_s=0.1, batch=1, now=0.0)
    assert (share_s(forecast), share_s(forecast, OTHER)) == (0.5, 0.1)
    assert forecast.expect(("another task", 5, 9)) is None


def test_the_engines_rates_give_a_guess_until_there_is_a_measurement() -> None:
    forecast = Forecast()
    forecast.set_rates(100.0, 32.0)
    assert share_s(forecast, ("report", 9, 7)) == pytest.approx(384 / 4 / 100 + 127 / 7 / 32)
    assert share_s(forecast, ("triage", 9, 0)) == pytest.approx(384 / 4 / 100)
    forecast.set_rates(200.0, 32.0)
    assert share_s(forecast, ("triage", 9, 0)) == pytest.approx(384 / 4 / 200)
    forecast.measure(("report", 9, 7), share_s=0.5, run_s=1.0, batch=1, now=0.0)
    assert share_s(forecast, ("report", 9, 7)) == 0.5


@pytest.mark.parametrize("rates", [(None, 10.0), (10.0, None), (None, None)])
def test_without_both_rates_nothing_is_guessed(rates: tuple[float | None, float | None]) -> None:
    forecast = Forecast()
    forecast.set_rates(*rates)
    assert forecast.expect(KIND) is None


def test_what_was_measured_says_nothing_about_another_model() -> None:
    forecast = Forecast()
    forecast.measure(KIND, share_s=0.5, run_s=1.0, batch=1, now=0.0)
    forecast.clear()
    assert forecast.expect(KIND) is None


def test_a_run_that_was_cut_off_takes_longer_than_it_got() -> None:
    forecast = Forecast()
    forecast.measure_cut_off(KIND, run_s=2.0, beside=2, now=0.0)
    expected = forecast.expect(KIND)
    assert expected is not None
    assert expected.run_s(50, 2) > 2.0


def test_a_cut_off_before_the_usual_run_confirms_it() -> None:
    forecast = Forecast()
    forecast.measure(KIND, share_s=1.0, run_s=2.0, batch=2, now=0.0)
    forecast.measure_cut_off(KIND, run_s=0.1, beside=2, now=50.0)
    expected = forecast.expect(KIND)
    assert expected is not None
    assert (expected.share_s, expected.believed_until) == (1.0, 50.0 + BELIEVED_PER_RUN_S)


def test_on_an_idle_engine_an_answer_takes_a_usual_run() -> None:
    assert Backlog(slots=4).answered_in_s(measured((0.2, 0.2, 1), (0.9, 0.9, 1))) == 0.2


def test_with_a_free_slot_there_is_no_wait_but_the_engine_is_shared() -> None:
    backlog = Backlog(slots=4)
    backlog.add_running(measured((1.0, 1.0, 1)), elapsed_s=0.0, beside=1)
    assert backlog.answered_in_s(measured((0.2, 0.2, 1))) == pytest.approx(0.4)


def test_without_a_free_slot_the_work_ahead_comes_first() -> None:
    backlog = Backlog(slots=1)
    backlog.add_running(measured((1.0, 1.0, 1)), elapsed_s=0.0, beside=1)
    for _ in range(3):
        backlog.add(measured((2.0, 2.0, 1)))
    assert backlog.count == 4
    assert backlog.answered_in_s(measured((0.5, 0.5, 1))) == pytest.approx(1 + 3 * 2 + 0.5)


@pytest.mark.parametrize(("elapsed_s", "left_s"), [(0.0, 1.0), (1.0, 0.5), (2.0, 0.0), (6.0, 2.0)])
def test_work_that_runs_shrinks_with_its_part_of_the_engine_until_it_is_overdue(
    elapsed_s: float, left_s: float
) -> None:
    backlog = Backlog(slots=2)
    backlog.add_running(measured((1.0, 2.0, 2)), elapsed_s=elapsed_s, beside=2)
    assert backlog.work_s == pytest.approx(left_s)


@pytest.mark.parametrize(("shares", "margin_s"), [((1.0,), 0.0), ((0.5, 1.5), 2 * (4 * 0.25) ** 0.5)])
def test_caution_grows_with_the_spread_of_what_is_ahead(shares: tuple[float, ...], margin_s: float) -> None:
    backlog = Backlog(slots=1)
    for _ in range(4):
        backlog.add(measured(*[(share, share, 1) for share in shares]))
    assert backlog.answered_in_s(measured((1.0, 1.0, 1))) == pytest.approx(4 + 1 + margin_s)


def test_the_unknown_is_counted_and_marked() -> None:
    backlog = Backlog(slots=1)
    backlog.add(measured((1.0, 1.0, 1)))
    assert backlog.is_known
    backlog.add_running(None, elapsed_s=1.0, beside=1)
    assert (backlog.count, backlog.work_s, backlog.is_known) == (2, 1.0, False)
