"""Breaks of connections, in calm and while something was out, on a time line."""

from __future__ import annotations

import pytest

from edge_agent.mqtt.break_odds import NO_CHANCE, PAUSE_S, Calm, Odds


def timeline(*, stood_s: float, broke: int, out_s: float, breaks: int) -> Odds:
    calm = Calm()
    odds = Odds(calm)
    calm.begin(100.0)
    calm.end(100.0 + stood_s, breaks=broke)
    for _ in range(breaks):
        odds.broke(out_s / breaks)
    return odds


def test_what_breaks_each_connection_at_once_is_no_chance_after_three() -> None:
    odds = [timeline(stood_s=10.0, broke=0, out_s=0.002 * breaks, breaks=breaks) for breaks in (1, 2, 3)]
    assert [one.are_proof for one in odds] == [False, False, True]


def test_the_longer_an_answer_takes_the_more_breaks_it_needs() -> None:
    needed = [
        next(k for k in range(1, 99) if timeline(stood_s=20 * k, broke=0, out_s=rtt_s * k, breaks=k).are_proof)
        for rtt_s in (0.002, 0.1, 1.0, 5.0)
    ]
    assert needed == [3, 4, 7, 12]


def test_a_network_that_breaks_as_often_without_it_proves_nothing_however_long() -> None:
    for hours in (1, 10, 100):
        odds = timeline(stood_s=3600 * hours, broke=400 * hours, out_s=360 * hours, breaks=40 * hours)
        assert odds.chance == 1.0


def test_what_was_before_does_not_count() -> None:
    calm = Calm()
    calm.begin(0.0)
    calm.end(1e6)
    odds = Odds(calm)
    calm.begin(1e6)
    calm.end(1e6 + 1.0, breaks=3)
    for _ in range(5):
        odds.broke(1.0)
    assert odds.chance > 0.5


def test_the_chance_is_at_most_what_a_binomial_tail_says() -> None:
    # Three of five breaks in a tenth of the time: 10 · 0.1³, of which the tail of the distribution is 0.00856.
    assert timeline(stood_s=90, broke=2, out_s=10, breaks=3).chance == pytest.approx(0.01, rel=1e-3)
    assert NO_CHANCE < 1e-6


def test_trials_are_rarer_where_connections_live_and_each_takes_long() -> None:
    assert timeline(stood_s=1000, broke=0, out_s=0.01, breaks=1).pause_s == PAUSE_S[0]
    assert timeline(stood_s=1000, broke=0, out_s=10.0, breaks=1).pause_s == PAUSE_S[1]
    assert timeline(stood_s=100, broke=24, out_s=10.0, breaks=1).pause_s == pytest.approx(4.0)
