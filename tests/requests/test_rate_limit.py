from __future__ import annotations

import pytest

from edge_agent.core.messages import Code, Refusal
from edge_agent.requests.rate_limit import MAX_BUCKETS, RateLimiter


def wait_s(limiter: RateLimiter, now: float, per_minute: int, name: str = "t") -> float:
    """0 where one more is admitted, and counted."""
    try:
        limiter.take("reply topic", name, per_minute, now)
    except Refusal as refusal:
        error = refusal.error
    else:
        return 0.0
    assert error.code is Code.RATE_LIMITED
    assert error.retry_after_s
    return error.retry_after_s


def test_a_minutes_worth_may_come_at_once_and_then_as_many_as_fill_up() -> None:
    limiter = RateLimiter()
    assert [wait_s(limiter, 0.0, 3) for _ in range(3)] == [0, 0, 0]
    assert wait_s(limiter, 0.0, 3) == pytest.approx(20)
    assert wait_s(limiter, 14.98, 3) == 5.1
    assert wait_s(limiter, 20.0, 3) == 0
    assert wait_s(limiter, 20.0, 3, "other") == 0


def test_the_bucket_that_was_used_the_longest_ago_is_dropped() -> None:
    limiter = RateLimiter()
    for number in range(MAX_BUCKETS):
        assert wait_s(limiter, 0.0, 2, str(number)) == 0
    assert wait_s(limiter, 0.0, 2, "0") == 0
    assert wait_s(limiter, 0.0, 2, "new") == 0
    assert wait_s(limiter, 0.0, 2, "0") == 30
    assert [wait_s(limiter, 0.0, 2, "1") for _ in range(3)] == [0, 0, 30]
