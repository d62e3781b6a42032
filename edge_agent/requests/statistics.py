"""What health says of answers: totals since the start, and percentiles of the latest ones."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# Answers that percentiles are taken of.
WINDOW = 512


@dataclass(slots=True)
class ModelAnswers:
    """The answers of one model since the agent's start."""

    answers_total: int = 0
    latency_ms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    joules: float = 0.0  # Of the answers whose energy is known.
    measured: int = 0  # How many these are.

    def describe(self) -> dict[str, Any]:
        """For health."""
        return {
            "answers_total": self.answers_total,
            "latency_ms": percentiles(self.latency_ms, 50, 95, 99),
            "joules_per_answer": self.joules / self.measured if self.measured else None,
        }


def percentiles(values: Iterable[float], *percents: int) -> dict[str, float | None]:
    """By name (`p50`)."""
    ordered = sorted(values)
    return {f"p{percent}": percentile(ordered, percent) for percent in percents}


def percentile(values: Iterable[float], percent: int) -> float | None:
    """The smallest value that at least `percent` per cent of the values do not exceed; None if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
