from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.messages import Code, Refusal
from edge_agent.requests.rate_limit import MAX_KNOWN, RateLimit, Rates


def limit(per_minute: int, name: str = "t") -> RateLimit:
    return RateLimit("reply topic", name, per_minute)


def wait_s(rates: Rates, now: float, *limits: RateLimit) -> float:
    """0 where one more is let in, and counted."""
    try:
        rates.take(limits, now)
    except Refusal as refusal:
        error = refusal.error
    else:
        return 0.0
    assert error.code is Code.RATE_LIMITED
    assert error.retry_after_s
    return error.retry_after_s


def test_a_minutes_worth_may_come_at_once_and_then_as_many_as_fill_up() -> None:
    rates = Rates()
    assert [wait_s(rates, 0.0, limit(3)) for _ in range(3)] == [0, 0, 0]
    assert wait_s(rates, 0.0, limit(3)) == pytest.approx(20)
    assert wait_s(rates, 14.98, limit(3)) == 5.1
    assert wait_s(rates, 20.0, limit(3)) == 0
    assert wait_s(rates, 20.0, limit(3, "other")) == 0


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 20))
def test_never_more_than_twice_the_rate_within_a_minute_and_the_told_time_is_enough(
    pauses: list[float], per_minute: int
) -> None:
    rates, now, taken = Rates(), 0.0, list[float]()
    for pause in pauses:
        now += pause
        wanted_s = wait_s(rates, now, limit(per_minute))
        if wanted_s:
            now += wanted_s + 1e-6
            assert wait_s(rates, now, limit(per_minute)) == 0
        taken.append(now)
    for at in taken:
        assert sum(at <= other < at + 60 for other in taken) <= 2 * per_minute


def test_who_is_refused_by_one_limit_takes_nothing_from_another() -> None:
    rates, own, of_all = Rates(), limit(1, "own"), limit(2, "all")
    assert wait_s(rates, 0.0, own, of_all) == 0
    assert [wait_s(rates, 0.0, own, of_all) for _ in range(3)] == [60, 60, 60]
    assert wait_s(rates, 0.0, limit(1, "other"), of_all) == 0
    assert wait_s(rates, 0.0, limit(1, "third"), of_all) == 30
    assert wait_s(rates, 0.0, limit(1, "third")) == 0


def test_only_so_many_are_known_and_who_asked_the_longest_ago_is_forgotten() -> None:
    rates = Rates()
    for number in range(MAX_KNOWN):
        assert wait_s(rates, 0.0, limit(2, str(number))) == 0
    assert wait_s(rates, 0.0, limit(2, "0")) == 0
    assert wait_s(rates, 0.0, limit(2, "new")) == 0
    assert wait_s(rates, 0.0, limit(2, "0")) == 30
    assert [wait_s(rates, 0.0, limit(2, "1")) for _ in range(3)] == [0, 0, 30]
