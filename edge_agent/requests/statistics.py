"""What health says of requests: totals since the start, and percentiles of the latest answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from edge_agent.core.messages import Code, Outcome, Status
from edge_agent.store.rows import Quarantined

WINDOW = 512
# Each of these refusals says that more is asked than can be answered.
_OVERLOAD = (Code.QUEUE_FULL, Code.DEADLINE_UNREACHABLE)


@dataclass(slots=True)
class RequestTotals:
    """Counts since the agent's start. overloaded_total: refusals because more is asked than can be answered."""

    requests_total: int = 0
    accepted_total: int = 0
    rejected_total: int = 0
    overloaded_total: int = 0
    displaced_total: int = 0
    expired_total: int = 0
    duplicates_total: int = 0
    failed_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """The state of the requests at one moment. Times are milliseconds; None = unknown, or nothing to measure.

    latency_ms, queued_ms: percentiles of the latest answers, by name (`p50`).
    postponed_replies: replies that are sent again later, because the broker does not take them now.
    lost_replies: replies that the broker takes on no topic.
    store_fault: why requests do not outlive the agent although they should.
    """

    depth: int = 0
    capacity: int
    oldest_ms: float | None = None
    estimated_wait_ms: float | None = None
    active: int = 0
    is_draining: bool = False
    quarantined: tuple[Quarantined, ...] = ()
    postponed_replies: int = 0
    lost_replies: int = 0
    store_fault: str | None = None
    totals: RequestTotals = field(default_factory=RequestTotals)
    latency_ms: dict[str, float | None] = field(default_factory=dict)
    queued_ms: dict[str, float | None] = field(default_factory=dict)


class Statistics:
    """Counts how requests end."""

    def __init__(self) -> None:
        self.totals = RequestTotals()
        self._latency_ms: deque[float] = deque(maxlen=WINDOW)
        self._queued_ms: deque[float] = deque(maxlen=WINDOW)

    def count(self, outcome: Outcome) -> None:
        totals = self.totals
        totals.requests_total += 1
        totals.rejected_total += outcome.status is Status.BUSY
        totals.overloaded_total += outcome.error is not None and outcome.error.code in _OVERLOAD
        totals.expired_total += outcome.status is Status.EXPIRED
        totals.failed_total += outcome.status is Status.FAILED
        total_ms = outcome.timing.total_ms
        if outcome.status is not Status.OK or total_ms is None:
            return
        self._latency_ms.append(total_ms)
        self._queued_ms.append(outcome.timing.queued_ms or 0.0)

    def facts(self, **current: object) -> RequestFacts:
        """The totals and percentiles of now, together with the `current` fields of RequestFacts."""
        return RequestFacts(
            totals=replace(self.totals),
            latency_ms={f"p{percent}": percentile(self._latency_ms, percent) for percent in (50, 95, 99)},
            queued_ms={f"p{percent}": percentile(self._queued_ms, percent) for percent in (50, 95)},
            **current,  # type: ignore[arg-type]
        )


def percentile(values: Iterable[float], percent: int) -> float | None:
    """The smallest value that at least `percent` of the values do not exceed; None of none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
