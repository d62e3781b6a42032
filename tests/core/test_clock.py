import time
from datetime import UTC, datetime

import pytest

from edge_agent.core.clock import Moment, expiry, is_expired, moment, timestamp


def test_times_are_rfc_3339_utc_with_milliseconds() -> None:
    assert timestamp(datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC).timestamp()) == "2026-03-04T05:06:07.089Z"
    assert timestamp(datetime(2026, 3, 4, tzinfo=UTC).timestamp()) == "2026-03-04T00:00:00.000Z"


def test_a_clock_that_was_never_set_tells_no_time() -> None:
    seconds = (0.0, -5.0, datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    assert [*map(timestamp, seconds)] == [None] * 3


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        # A date is over with its day.
        ("2027-06-30", datetime(2027, 7, 1, tzinfo=UTC)),
        ("9999-12-31", None),
        ("2027-06-30T12:00:00Z", datetime(2027, 6, 30, 12, tzinfo=UTC)),
        ("2027-06-30t12:00:00.25+02:00", datetime(2027, 6, 30, 10, 0, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_what_expires_is_good_to_its_end(text: str, ends: datetime | None) -> None:
    end = expiry(text)
    assert ends is None or end == ends.timestamp()
    assert (is_expired(text, end - 0.001), is_expired(text, end)) == (False, True)
    assert is_expired(text, 1000.0) is None


@pytest.mark.parametrize(
    "text", ["", "2027", "2027-02-29", "20270630", "2027-06-30T12:00:00", "2027-06-30 12:00:00Z", "２027-06-30"]
)
def test_what_is_no_date_never_expires(text: str) -> None:
    with pytest.raises(ValueError, match="should be a date or a date with a time, such as 2027-06-30"):
        expiry(text)


NOW = Moment("b", 100.0, 1.8e9)


@pytest.mark.parametrize(
    ("then", "placed"),
    [
        (Moment("b", 40.0, 1.8e9 - 60), 40.0),
        # The time of day was set in between, or was never known, but within the same boot it is not needed.
        (Moment("b", 40.0, 0.0), 40.0),
        (Moment("b", 100.5, 1.8e9), 100.0),
        (Moment("a", 7000.0, 1.8e9 - 300), -200.0),
        # In any case it was before this boot.
        (Moment("a", 7000.0, 1.8e9 - 30), 0.0),
        (Moment("a", 7000.0, 1.8e9 + 30), 0.0),
        (Moment("a", 7000.0, 12.0), 0.0),
    ],
)
def test_a_moment_of_another_process_has_its_place_on_this_clock(then: Moment, placed: float) -> None:
    assert then.on_clock_of(NOW) == pytest.approx(placed)


def test_a_moment_tells_its_boot_and_the_time_of_day() -> None:
    at = moment(time.monotonic() - 10.0)
    assert at.boot == moment(0.0).boot != ""
    assert at.wall_s == pytest.approx(time.time() - 10.0, abs=1.0)
