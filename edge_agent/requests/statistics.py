"""What health says of requests: totals since the start, and percentiles of the latest answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edge_agent.store.store import Quarantined

# Answers that percentiles are taken of.
WINDOW = 512


@dataclass(slots=True)
class ModelAnswers:
    """The answers of one model since the agent's start. joules: of those `measured` whose energy is known."""

    answers_total: int = 0
    latency_ms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    joules: float = 0.0
    measured: int = 0

    def describe(self) -> dict[str, Any]:
        """For health."""
        return {
            "answers_total": self.answers_total,
            "latency_ms": percentiles(self.latency_ms, 50, 95, 99),
            "joules_per_answer": self.joules / self.measured if self.measured else None,
        }


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
    invalid_total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """The state of the requests at one moment. Times are milliseconds; None = unknown, or nothing to measure.

    latency_ms, queued_ms: percentiles of the latest answers, by name (`p50`). models: the answers of each, by name.
    postponed_replies: the broker does not take them now; they are sent again. lost_replies: taken on no topic.
    store_fault: why requests are kept in memory only, although they should outlive the agent.
    store_set_aside: why the requests of earlier processes are lost.
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
    store_set_aside: str | None = None
    totals: RequestTotals = field(default_factory=RequestTotals)
    latency_ms: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(("p50", "p95", "p99")))
    queued_ms: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(("p50", "p95")))
    models: dict[str, Any] = field(default_factory=dict)


def percentiles(values: Iterable[float], *percents: int) -> dict[str, float | None]:
    """By name (`p50`)."""
    ordered = sorted(values)
    return {f"p{percent}": percentile(ordered, percent) for percent in percents}


def percentile(values: Iterable[float], percent: int) -> float | None:
    """The smallest value that at least `percent` of the values do not exceed; None of none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
