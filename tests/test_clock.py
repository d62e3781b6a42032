from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from edge_agent.clock import timestamp


def test_times_are_rfc_3339_utc_with_milliseconds() -> None:
    assert timestamp(datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC).timestamp()) == "2026-03-04T05:06:07.089Z"
    assert timestamp(datetime(2026, 3, 4, tzinfo=UTC).timestamp()) == "2026-03-04T00:00:00.000Z"


@pytest.mark.parametrize("seconds", [0.0, -5.0, datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()])
def test_a_clock_that_was_never_set_tells_no_time(seconds: float) -> None:
    assert timestamp(seconds) is None


def test_now_is_told_in_the_same_form() -> None:
    told = timestamp()
    assert told is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told)
