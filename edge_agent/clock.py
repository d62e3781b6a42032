"""The time of day, told only when it is known."""

from __future__ import annotations

import time
from datetime import UTC, datetime

# A board without a clock battery wakes up in 1970 or at its image's date. No time before this page was written is true.
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def timestamp(seconds: float | None = None) -> str | None:
    """RFC 3339 UTC with milliseconds, of now or of seconds since 1970; None while the clock is unset."""
    seconds = time.time() if seconds is None else seconds
    if seconds < _EARLIEST:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
