"""PURE. What health says of requests: totals since the start, and percentiles of the latest ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from edge_agent.core.messages import Code, Outcome, Status

WINDOW = 512
# More asked than can be answered, as far as one refusal tells.
_OVERLOAD = (Code.QUEUE_FULL, Code.DEADLINE_UNREACHABLE)


def percentile(values: Iterable[float], percent: int) -> float | None:
    """The smallest value that at least `percent` of the values do not exceed; None of none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


class Statistics:
    """Counts ends of requests. latency and queued: milliseconds of the latest WINDOW answered ones."""

    def __init__(self) -> None:
        self.requests_total = 0
        self.accepted_total = 0
        self.rejected_total = 0
        self.overloaded_total = 0
        self.displaced_total = 0
        self.expired_total = 0
        self.duplicates_total = 0
        self.failed_total = 0
        self.latency_ms: deque[float] = deque(maxlen=WINDOW)
        self.queued_ms: deque[float] = deque(maxlen=WINDOW)

    def count(self, outcome: Outcome) -> None:
        """One request has ended so."""
        self.requests_total += 1
        self.rejected_total += outcome.status is Status.BUSY
        self.overloaded_total += outcome.error is not None and outcome.error.code in _OVERLOAD
        self.expired_total += outcome.status is Status.EXPIRED
        self.failed_total += outcome.status is Status.FAILED
        total_ms = outcome.timing.total_ms
        if outcome.status is not Status.OK or total_ms is None:
            return
        self.latency_ms.append(total_ms)
        self.queued_ms.append(outcome.timing.queued_ms or 0.0)
