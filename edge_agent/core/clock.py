"""The time of day, where it is known; and moments that another process, or another boot, can place on its clock."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from edge_agent.core.strict_json import number_of

# A board without a clock battery starts in 1970 or at its image's date. An earlier time is not true.
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_DAY_S = 86_400
# As seconds, a time in the year 5138; as milliseconds, one in 1973.
_MILLISECONDS_FROM = 1e11
# RFC 3339: a date, or a date with a time and its offset from UTC.
_EXPIRY = re.compile(r"\d{4}-\d\d-\d\d([Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d))?", re.ASCII)


def timestamp(seconds: float | None = None) -> str | None:
    """RFC 3339 UTC with milliseconds, of now or of seconds since 1970; None while the clock is unset."""
    seconds = time.time() if seconds is None else seconds
    return None if seconds < _EARLIEST else rfc3339(seconds)


def rfc3339(seconds: float) -> str:
    """RFC 3339 UTC with milliseconds, also of times at which a clock was unset, as in a recording."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_timestamp(value: object) -> float | None:
    """Seconds since 1970 of a time as `timestamp` writes it, with any offset from UTC; None if it is not a time."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if moment is None or moment.tzinfo is None else moment.timestamp()


def parse_device_time(value: object) -> float | None:
    """Seconds since 1970 of a time as devices write it: RFC 3339, seconds or milliseconds; None if it is not a time."""
    seconds = parse_timestamp(value)
    if seconds is not None:
        return seconds
    number = number_of(value)
    return number if number is None or number < _MILLISECONDS_FROM else number / 1000


def age_s(seconds: float, monotonic_s: float) -> float | None:
    """The age of a time since 1970 at a recent time of the monotonic clock.

    None if either clock was unset, or if that time was in the future.
    """
    wall_s = _wall_s(monotonic_s)
    return None if min(seconds, wall_s) < _EARLIEST or seconds > wall_s else wall_s - seconds


def expiry(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 date-time, or of the end of a date in UTC. Raises ValueError."""
    try:
        if _EXPIRY.fullmatch(text) is None:
            raise ValueError(text)
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        rule = "should be a date or a date with a time, such as 2027-06-30 or 2027-06-30T12:00:00Z"
        raise ValueError(rule) from None
    return moment.timestamp() if moment.tzinfo else moment.replace(tzinfo=UTC).timestamp() + _DAY_S


def is_expired(text: str, seconds: float | None = None) -> bool | None:
    """Whether a valid `expiry` has passed, now or at seconds since 1970; None while the clock is unset."""
    seconds = time.time() if seconds is None else seconds
    return None if seconds < _EARLIEST else seconds >= expiry(text)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time that another process can place on its own clock."""

    boot: str
    monotonic_s: float  # On the monotonic clock of that boot.
    wall_s: float  # Since 1970.

    def on_clock_of(self, now: Moment) -> float:
        """The moment in seconds of the monotonic clock of `now`; negative if it was before this boot.

        After another boot only the time of day places it. Where that is unknown, it counts as the start of this boot.
        """
        if self.boot == now.boot:
            return min(self.monotonic_s, now.monotonic_s)
        is_known = min(self.wall_s, now.wall_s) >= _EARLIEST
        elapsed_s = now.wall_s - self.wall_s if is_known else 0.0
        return now.monotonic_s - max(elapsed_s, now.monotonic_s)


def moment(monotonic_s: float) -> Moment:
    """The moment at a recent time of this process's monotonic clock."""
    return Moment(_boot(), monotonic_s, _wall_s(monotonic_s))


def _wall_s(monotonic_s: float) -> float:
    return time.time() - (time.monotonic() - monotonic_s)


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # counts as a new boot at each start
        return f"unknown {time.time_ns()}"
