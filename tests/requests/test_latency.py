from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.protocol import ChatMessage, LabelsPlan, Run, TextPlan
from edge_agent.requests.latency import BELIEVED_PER_RUN_S, STALE_AFTER_S, WINDOW, Expectation, Kind, Latency, kind_of

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


def test_a_kind_is_the_task_and_the_sizes_that_count() -> None:
    assert kind_of(run("x" * 20)) == kind_of(run("y" * 31))
    assert kind_of(run("x" * 20)) != kind_of(run("x" * 32))
    assert kind_of(run("x", max_tokens=16)) != kind_of(run("x", max_tokens=256))
    assert kind_of(run("x")) != kind_of(run("x", task="other"))


def test_labels_are_not_written_so_their_number_of_tokens_does_not_count() -> None:
    plan = LabelsPlan(labels=("a", "b"))
    assert kind_of(run("x", plan=plan, max_tokens=16)) == kind_of(run("x", plan=plan, max_tokens=256))


def test_the_first_shares_are_averaged_and_later_ones_smoothed() -> None:
    assert measured((1.0, 1, 1), (3.0, 1, 1)).share_s == pytest.approx(2.0)
    expected = measured(*[(1.0, 1.0, 1)] * 50, (11.0, 1.0, 1))
    assert expected.share_s == pytest.approx(2.0)
    assert expected.variance == pytest.approx(0.9 * 0.1 * 100)


def test_shares_that_are_all_the_same_have_no_variance() -> None:
    assert measured(*[(0.5, 1.0, 1)] * 20).variance == pytest.approx(0.0)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=100))
def test_the_mean_stays_between_what_was_measured(shares: list[float]) -> None:
    expected = measured(*[(share, 1.0, 1) for share in shares])
    assert min(shares) - 1e-9 <= expected.share_s <= max(shares) + 1e-9
    assert expected.variance >= 0


def test_a_run_is_judged_by_those_that_had_as_few_beside_them() -> None:
    expected = measured(*[(0.1, 0.1, 1)] * 10, *[(0.1, 0.4, 4)] * 10)
    assert expected.run_s(90, 1) == 0.1
    assert expected.run_s(90, 4) == 0.4


def test_runs_that_were_all_wider_are_better_than_none() -> None:
    assert measured((0.1, 0.4, 4)).run_s(50, 1) == 0.4


def test_what_was_known_of_runs_changes_with_the_next_one() -> None:
    expected = measured((0.1, 0.1, 1))
    assert expected.run_s(95, 1) == 0.1
    expected.measure(share_s=0.1, run_s=0.7, batch=1, now=0.0)
    assert expected.run_s(95, 1) == 0.7


def test_runs_are_forgotten_after_a_while() -> None:
    assert measured((0.1, 9.0, 1), *[(0.1, 0.1, 1)] * WINDOW).run_s(100, 1) == 0.1


def test_a_measurement_grows_stale_and_a_guess_does_not() -> None:
    expected = measured((0.1, 0.1, 1), at=100.0)
    assert not expected.is_stale(100.0 + STALE_AFTER_S - 1)
    assert expected.is_stale(100.0 + STALE_AFTER_S)
    assert not Expectation(share_s=1.0).is_stale(1e9)


def test_nothing_is_expected_of_what_is_unknown() -> None:
    assert Latency().expect(KIND) is None


def test_another_kind_of_the_task_is_better_than_nothing() -> None:
    latency = Latency()
    latency.measure(KIND, share_s=0.5, run_s=1.0, batch=1, now=0.0)
    assert latency.expect(OTHER) is not None
    latency.measure(OTHER, share_s=0.1, run_s=0.1, batch=1, now=0.0)
    assert [e and e.share_s for e in map(latency.expect, (KIND, OTHER))] == [0.5, 0.1]
    assert latency.expect(("another task", 5, 9)) is None


def test_the_engines_rates_give_a_guess_until_there_is_a_measurement() -> None:
    latency = Latency()
    latency.set_rates(100.0, 32.0)
    guess = latency.expect(("report", 9, 7))
    assert guess is not None
    assert guess.share_s == pytest.approx(384 / 4 / 100 + 127 / 7 / 32)
    assert guess.run_s(95, 2) == pytest.approx(2 * guess.share_s)
    labels = latency.expect(("triage", 9, 0))
    assert labels is not None
    assert labels.share_s == pytest.approx(384 / 4 / 100)
    latency.set_rates(200.0, 32.0)
    faster = latency.expect(("triage", 9, 0))
    assert faster is not None
    assert faster.share_s == pytest.approx(384 / 4 / 200)
    latency.measure(("report", 9, 7), share_s=0.5, run_s=1.0, batch=1, now=0.0)
    known = latency.expect(("report", 9, 7))
    assert known is not None
    assert known.share_s == 0.5


def test_a_guess_does_not_reckon_with_an_answer_as_long_as_it_may_be() -> None:
    latency = Latency()
    latency.set_rates(1000.0, 100.0)
    guesses = [latency.expect(kind_of(run("x", max_tokens=tokens))) for tokens in (1, 16, 256)]
    shares = [guess.share_s for guess in guesses if guess]
    assert shares == sorted(shares)
    assert shares[-1] < 256 / 100 / 4


@pytest.mark.parametrize("rates", [(None, 10.0), (10.0, None), (None, None)])
def test_without_both_rates_nothing_is_guessed(rates: tuple[float | None, float | None]) -> None:
    latency = Latency()
    latency.set_rates(*rates)
    assert latency.expect(KIND) is None


def test_a_request_that_ran_out_of_time_tells_that_it_takes_longer() -> None:
    latency = Latency()
    latency.gave_up(KIND, run_s=2.0, beside=2, now=0.0)
    expected = latency.expect(KIND)
    assert expected is not None
    assert (expected.share_s, expected.run_s(50, 2)) == (1.0, 2.0)


def test_one_that_was_handed_over_just_before_its_deadline_tells_nothing() -> None:
    latency = Latency()
    latency.measure(KIND, share_s=1.0, run_s=2.0, batch=2, now=0.0)
    latency.gave_up(KIND, run_s=0.1, beside=2, now=0.0)
    expected = latency.expect(KIND)
    assert expected is not None
    assert expected.share_s == 1.0


def ended(latency: Latency, *shares_s: float, batch: int = 1, at: float = 0.0) -> None:
    for share_s in shares_s:
        latency.measure(KIND, share_s=share_s, run_s=share_s * batch, batch=batch, now=at)


def least_s(latency: Latency, now: float, kind: Kind = KIND) -> float | None:
    least = latency.least(kind, now)
    return None if least is None else least.least_s


def test_the_least_a_request_takes_is_what_the_fastest_of_its_kind_took() -> None:
    latency = Latency()
    assert least_s(latency, 0.0) is None
    ended(latency, 0.3, 0.1, 0.2)
    assert least_s(latency, 0.0) == 0.1
    assert least_s(latency, 0.0, OTHER) is None


def test_of_requests_that_ran_together_it_is_their_share_until_one_ran_alone() -> None:
    latency = Latency()
    ended(latency, 0.03, batch=4)
    assert least_s(latency, 0.0) == 0.03
    ended(latency, 0.1)
    ended(latency, 0.02, batch=4)
    assert least_s(latency, 0.0) == 0.1


def test_it_is_believed_the_longer_the_more_runs_have_shown_it() -> None:
    latency = Latency()
    ended(latency, 9.0)
    assert least_s(latency, BELIEVED_PER_RUN_S - 0.1) == 9.0
    assert least_s(latency, BELIEVED_PER_RUN_S) is None
    ended(latency, *[0.1] * 50)
    assert least_s(latency, STALE_AFTER_S - 0.1) == 0.1
    assert least_s(latency, STALE_AFTER_S) is None


def test_a_trial_that_was_cut_off_speaks_against_deadlines_as_short_as_its_own_alone() -> None:
    latency = Latency()
    ended(latency, *[0.1] * 50)
    latency.gave_up(KIND, run_s=0.02, beside=1, now=60.0)
    least = least_s(latency, 60.0)
    assert least is not None
    assert 0.02 < least < 0.03
    ended(latency, 0.08, at=61.0)
    assert least_s(latency, 61.0) == 0.08


def test_trials_that_fail_become_rare() -> None:
    latency, now, trials = Latency(), 0.0, 0
    while now < 600.0:
        if least_s(latency, now) is None:
            latency.gave_up(KIND, run_s=0.02, beside=1, now=now)
            trials += 1
        now += 1.0
    assert trials < 20


def test_one_that_was_cut_off_refuses_nobody_whom_faster_ones_speak_for() -> None:
    latency = Latency()
    ended(latency, 0.1)
    latency.gave_up(KIND, run_s=2.0, beside=1, now=1.0)
    assert least_s(latency, 1.0) == 0.1


def test_one_that_was_cut_off_beside_others_tells_nothing_of_running_alone() -> None:
    latency = Latency()
    latency.gave_up(KIND, run_s=2.0, beside=2, now=0.0)
    assert least_s(latency, 0.0) is None


def test_a_longer_trial_raises_the_least_and_a_shorter_one_does_not_lower_it() -> None:
    latency = Latency()
    for run_s in (0.5, 1.0, 0.1):
        latency.gave_up(KIND, run_s=run_s, beside=1, now=0.0)
    assert least_s(latency, 0.0) == pytest.approx(1.1)


@pytest.mark.parametrize(("run_s", "deadline_ms"), [(0.02, 5_000), (1.0, 8_000), (30.0, 60_000)])
def test_the_default_deadline_is_eight_long_runs_within_bounds(run_s: float, deadline_ms: int) -> None:
    latency = Latency()
    assert latency.deadline_ms("report") is None
    for _ in range(20):
        latency.measure(KIND, share_s=run_s, run_s=run_s, batch=1, now=0.0)
    assert latency.deadline_ms("report") == deadline_ms
    assert latency.deadline_ms("another") is None
