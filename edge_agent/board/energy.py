"""What answers cost in joules: measured power over time, divided by the engine's working time.

Only power that a sensor measured counts. Nothing is estimated from load, and a gap between two readings is not filled.
Power that the board takes while idle is kept apart, so that a request does not pay for standby.
"""

from dataclasses import dataclass
from typing import Any

# Two readings that are further apart say nothing about the time between them.
LONGEST_GAP_S = 5.0
# Idle power is a mean over about this many idle intervals, because it changes with temperature and other programs.
_IDLE_INTERVALS = 60
# The cost of a busy second is a mean over about this many busy intervals, once they hold this much work.
_BUSY_INTERVALS = 60
_MIN_BUSY_S = 1.0


@dataclass(frozen=True, slots=True)
class EnergySample:
    at_s: float
    watts: float | None
    busy_s: float
    """The engine's working time since the start."""
    tokens: int
    """The tokens that it has computed since the start."""
    is_active: bool
    """Whether requests run at this moment."""


class EnergyMeter:
    def __init__(self) -> None:
        # All that the board has taken since the start; None until power is measured.
        self.joules_total: float | None = None
        # None until it is known.
        self.idle_watts: float | None = None
        self._last: EnergySample | None = None
        self._was_idle = False
        self._idle_count = 0
        # Sums over the busy intervals, in which later ones weigh more. The joules are those beyond idle power.
        self._busy_joules = self._busy_s = self._busy_tokens = 0.0

    def add(self, sample: EnergySample) -> None:
        """Samples come in order of time, about one a second."""
        last, self._last = self._last, sample
        was_idle, self._was_idle = self._was_idle, False
        if last is None or last.watts is None or sample.watts is None:
            return
        seconds = sample.at_s - last.at_s
        if not 0 < seconds <= LONGEST_GAP_S:
            return
        watts = (last.watts + sample.watts) / 2
        self.joules_total = (self.joules_total or 0.0) + watts * seconds
        busy_s, tokens = sample.busy_s - last.busy_s, sample.tokens - last.tokens
        is_idle = not (busy_s or last.is_active or sample.is_active)
        # The worker's totals arrive up to a second late, so only the second of two idle intervals is surely idle.
        if is_idle and was_idle:
            self._idle_count = min(self._idle_count + 1, _IDLE_INTERVALS)
            before = watts if self.idle_watts is None else self.idle_watts
            self.idle_watts = before + (watts - before) / self._idle_count
        elif not is_idle and self.idle_watts is not None:
            decay = 1 - 1 / _BUSY_INTERVALS
            self._busy_joules = decay * self._busy_joules + (watts - self.idle_watts) * seconds
            self._busy_s = decay * self._busy_s + busy_s
            self._busy_tokens = decay * self._busy_tokens + tokens
        self._was_idle = is_idle

    def as_health(self) -> dict[str, Any]:
        return {"power": {"joules_total": self.joules_total, "joules_per_token": self.joules_per_token}}

    @property
    def joules_per_busy_s(self) -> float | None:
        """Energy beyond idle power per second of the engine's working time; None if too little was measured."""
        return max(0.0, self._busy_joules) / self._busy_s if self._busy_s >= _MIN_BUSY_S else None

    @property
    def joules_per_token(self) -> float | None:
        """Energy beyond idle power per computed token of prompts and answers; None if too little was measured."""
        is_known = self._busy_tokens and self._busy_s >= _MIN_BUSY_S
        return max(0.0, self._busy_joules) / self._busy_tokens if is_known else None
