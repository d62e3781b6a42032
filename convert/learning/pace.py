"""How many steps trainings have within a time limit."""

import math

from .recipe import MIN_STEPS

# Answering the held-out rows, and writing the bundle, takes the rest of the time.
_TRAINING_SHARE = 0.9
# The first ones are slower than the others.
_FIRST_STEPS = 20


class Pace:
    """The steps of one training: those of its recipe, or as many as there is time for at the pace so far."""

    def __init__(self, max_steps: int, seconds: float, now: float) -> None:
        self._max_steps, self._seconds, self._began = max_steps, seconds, now

    def steps(self, done: int, now: float) -> int:
        """As judged after so many steps: a busy moment counts only as long as it lasts."""
        if self._seconds == math.inf or done < _FIRST_STEPS:
            return self._max_steps
        affordable = int(done * self._seconds / max(now - self._began, 1e-6))
        return min(max(affordable, done, MIN_STEPS), self._max_steps)


class TimeLimit:
    """Shares `minutes` among trainings: each gets its part of what the earlier ones have left."""

    def __init__(self, minutes: float | None, trainings: int, now: float) -> None:
        self._minutes, self._left = minutes, trainings
        self._until = math.inf if minutes is None else now + 60 * minutes
        self._steps = list[int]()

    def seconds(self, now: float) -> float:
        """For the next training."""
        return _TRAINING_SHARE * (self._until - now) / self._left

    def count(self, steps: int) -> None:
        """A training has ended after so many steps."""
        self._left -= 1
        self._steps.append(steps)

    def warnings(self, max_steps: int) -> list[str]:
        low, high = min(self._steps), max(self._steps)
        if low == max_steps:
            return []
        allowed = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        warning = (
            f"--minutes {self._minutes:g} allowed each training only {allowed} of {max_steps:,} steps on this machine: "
            "the model may be right less often, and another run will not give the same bytes"
        )
        return [warning]
