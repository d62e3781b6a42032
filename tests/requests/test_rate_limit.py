from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.requests.rate_limit import MAX_KNOWN, RateLimits


def test_a_minutes_worth_may_come_at_once_and_then_as_many_as_fill_up() -> None:
    limits = RateLimits()
    assert [limits.wait_s("t", 3, 0.0) for _ in range(3)] == [0, 0, 0]
    assert limits.wait_s("t", 3, 0.0) == pytest.approx(20)
    assert limits.wait_s("t", 3, 14.98) == 5.1
    assert limits.wait_s("t", 3, 20.0) == 0
    assert limits.wait_s("other", 3, 20.0) == 0


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 20))
def test_never_more_than_twice_the_rate_within_a_minute_and_the_told_time_is_enough(
    pauses: list[float], per_minute: int
) -> None:
    limits, now, taken = RateLimits(), 0.0, list[float]()
    for pause in pauses:
        now += pause
        wait_s = limits.wait_s("t", per_minute, now)
        if wait_s:
            now += wait_s + 1e-6
            assert limits.wait_s("t", per_minute, now) == 0
        taken.append(now)
    for at in taken:
        assert sum(at <= other < at + 60 for other in taken) <= 2 * per_minute


def test_only_so_many_are_known() -> None:
    limits = RateLimits()
    for number in range(MAX_KNOWN + 1):
        assert limits.wait_s(number, 1, 0.0) == 0
    assert limits.wait_s(1, 1, 0.0) == pytest.approx(60)
    assert limits.wait_s(0, 1, 0.0) == 0
