"""What health says of answers: totals since the start, and percentiles of the latest ones."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.pipe import Finished

# Answers that percentiles are taken of.
WINDOW = 512
# Inputs of a task among which odd ones are counted, and how many of them there have to be.
ODD_WINDOW, MIN_ODD_WINDOW = 200, 100


@dataclass(frozen=True, slots=True)
class OddShare:
    task: str
    share: float  # Of the newest inputs.
    field: str | None  # The field that is odd most often; None if no field is, each by itself.


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


class OddInputs:
    """Which of each task's newest inputs are not as the training of a trained model was."""

    def __init__(self) -> None:
        self._newest = defaultdict[str, deque[tuple[str, ...] | None]](lambda: deque(maxlen=ODD_WINDOW))

    def add(self, task: str, event: Finished) -> None:
        if event.rare_fields is not None:
            names = tuple(odd.field for odd in event.odd_fields)
            self._newest[task].append(names if event.marks else None)

    def clear(self) -> None:
        """Another model is in force."""
        self._newest.clear()

    def worst(self) -> OddShare | None:
        """Of the task with the largest share; None while no task has enough inputs, as with a general model."""
        shares = []
        for task, newest in self._newest.items():
            odd = [names for names in newest if names is not None]
            if len(newest) >= MIN_ODD_WINDOW:
                fields = Counter(name for names in odd for name in names)
                shares.append(
                    OddShare(task, len(odd) / len(newest), next((name for name, _ in fields.most_common(1)), None))
                )
        return max(shares, key=lambda each: each.share, default=None)


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
