"""What health says of answers: totals since the start, and percentiles of the latest ones."""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.pipe import Finished

# How many answers percentiles are taken of.
WINDOW = 512
# Inputs of a task among which odd ones are counted, and how many of them there have to be.
ODD_WINDOW, MIN_ODD_WINDOW = 200, 100
# Many are odd if they are more than in training by this many standard errors. By simulation, this happens by chance in
# at most 4 of 100,000 windows. Where training did not count them, many are odd if they are this share.
_STANDARD_ERRORS, _MANY_ODD = 4.0, 0.15
# The share of notable answers that a task allows counts as if so many rows had shown it, because it is an estimate.
_ALLOWED_ROWS = 1000


@dataclass(frozen=True, slots=True)
class OddShare:
    task: str
    share: float  # Of the newest inputs.
    field: str | None  # The field that is odd most often; None if no field is odd by itself.
    expected: float | None
    """The share of rows that training held out, or that the task allows; None if it is not known."""
    is_high: bool
    notable: str | None = None  # What the task calls such answers; None where inputs are not as its training was.


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


@dataclass(slots=True)
class NotableAnswers:
    """The answers of a task since the agent's start."""

    answers_total: int = 0
    notable_total: int = 0  # Those of them that people should look at.


class OddInputs:
    """Which of each task's newest inputs are not as the training of a trained model was, or have a notable answer."""

    def __init__(self) -> None:
        self._newest = defaultdict[str, deque[tuple[str, ...] | None]](lambda: deque(maxlen=ODD_WINDOW))
        self._allowed: dict[str, tuple[str, float]] = {}  # What tasks call notable answers, and the share they allow.

    def add(self, task: str, event: Finished) -> None:
        if event.rare_fields is not None:
            names = tuple(odd.field for odd in event.odd_fields)
            self._newest[task].append(names if event.marks else None)

    def add_notable(self, task: str, name: str, allowed: float, *, is_notable: bool) -> None:
        """See TaskBase.notable and max_notable."""
        if self._allowed.get(task) != (name, allowed):
            self._allowed[task] = name, allowed
            self._newest.pop(task, None)
        self._newest[task].append(() if is_notable else None)

    def clear(self) -> None:
        """Forgets all, because another model is in force."""
        self._newest.clear()

    def shares(self, held_out: Mapping[str, tuple[int, int]]) -> list[OddShare]:
        """Those of the tasks that have enough inputs, the worst first; none with a general model.

        `held_out` is Model.held_out_odd.
        """
        shares = []
        for task, newest in self._newest.items():
            odd = [names for names in newest if names is not None]
            if len(newest) >= MIN_ODD_WINDOW:
                fields = Counter(name for names in odd for name in names)
                share, expected = len(odd) / len(newest), None
                is_high = share >= _MANY_ODD
                notable, allowed = self._allowed.get(task, (None, 0.0))
                known = held_out.get(task) if notable is None else (allowed * _ALLOWED_ROWS, _ALLOWED_ROWS)
                if known is not None:
                    expected = known[0] / max(known[1], 1)
                    is_high = _are_more(odd=len(odd), inputs=len(newest), held_out=known)
                worst_field = next((name for name, _ in fields.most_common(1)), None)
                shares.append(OddShare(task, share, worst_field, expected, is_high, notable))
        return sorted(shares, key=lambda each: (each.is_high, each.share), reverse=True)


def _are_more(*, odd: int, inputs: int, held_out: tuple[float, int]) -> bool:
    """Compares the shares as Agresti and Caffo do for small samples, with an odd and an ordinary input more in each."""
    counts = ((odd + 1, inputs + 2), (held_out[0] + 1, held_out[1] + 2))
    here, there = (count / total for count, total in counts)
    error = math.sqrt(here * (1 - here) / counts[0][1] + there * (1 - there) / counts[1][1])
    return here - there > _STANDARD_ERRORS * error


def percentiles(values: Iterable[float], *percents: int) -> dict[str, float | None]:
    """The percentiles by name, such as `p50`."""
    ordered = sorted(values)
    return {f"p{percent}": percentile(ordered, percent) for percent in percents}


def percentile(values: Iterable[float], percent: int) -> float | None:
    """The smallest value that at least `percent` per cent of the values do not exceed; None if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
