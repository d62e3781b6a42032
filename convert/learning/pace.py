"""How many steps a training can make within its time limit."""

import math

from .recipe import MIN_STEPS

# The rest of the time is for answering the held-out rows and writing the bundle.
_TRAINING_SHARE = 0.9
# The pace is not judged before this many steps, because the first ones are slower.
_UNTIMED_STEPS = 20


class Pace:
    """How many steps one training makes: those of its recipe, or as many as it has time for at its pace so far."""

    def __init__(self, max_steps: int, seconds: float, now: float) -> None:
        self._max_steps, self._seconds, self._began = max_steps, seconds, now
        self._min_steps = min(MIN_STEPS, max_steps)
        self.words = "training"
        """What the progress line says."""
        self.share = 0.0
        """How much is done. It never falls, although one quick step may raise the number of steps by several."""

    def target_steps(self, done: int, now: float) -> int:
        """Judged again after each step, so that a busy moment of the machine counts only while it lasts."""
        steps = self._steps_in_time(done, now)
        self.share = max(self.share, done / steps)
        return steps

    def _steps_in_time(self, done: int, now: float) -> int:
        if self._seconds == math.inf or done < _UNTIMED_STEPS:
            return self._max_steps
        affordable = int(done * self._seconds / max(now - self._began, 1e-6))
        is_kept = affordable >= self._min_steps
        self.words = "training" if is_kept else f"training: --minutes is too short, so {self._min_steps} steps each"
        return min(max(affordable, done, self._min_steps), self._max_steps)


class TimeLimit:
    """Shares `minutes` among trainings: each gets an equal part of the time that is left when it begins."""

    def __init__(self, minutes: float | None, trainings: int, now: float) -> None:
        self._minutes, self._trainings_left = minutes, trainings
        self._until = math.inf if minutes is None else now + 60 * minutes
        self._steps = list[int]()

    def seconds_for_next(self, now: float) -> float:
        return _TRAINING_SHARE * (self._until - now) / self._trainings_left

    def on_trained(self, steps: int) -> None:
        self._trainings_left -= 1
        self._steps.append(steps)

    def warnings(self, max_steps: int) -> list[str]:
        """To be called after all trainings."""
        low, high = min(self._steps), max(self._steps)
        if low == max_steps:
            return []
        warning = "the model may be right less often, and another run will not give the same bytes"
        allowed = f"{low:,}"
        if low < high:
            # The model to be written is trained last.
            allowed = f"{low:,} to {high:,} ({self._steps[-1]:,} for the bundle's own model)"
            warning += ". The figures are of models with other numbers of steps; --steps gives all the same number"
        return [
            f"--minutes {self._minutes:g} allowed each training only {allowed} of {max_steps:,} steps on this machine: "
            + warning
        ]
