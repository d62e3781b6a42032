"""PURE. What answers cost in joules: measured power over time, shared out by the engine's time.

Only power that a sensor measured counts: nothing is derived from load, and a gap between two readings is not filled.
What the board takes while it does nothing is told apart, so that a request is not charged for standing by.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Two readings that are further apart tell nothing of what was between them.
LONGEST_GAP_S = 5.0
# Idle power follows temperature and what else runs: the mean of about so many idle intervals.
_IDLE_INTERVALS = 60
# What a busy second costs is told from as many busy intervals, once they hold this much work.
_BUSY_INTERVALS = 60
_FEWEST_BUSY_S = 1.0


@dataclass(frozen=True, slots=True)
class EnergySample:
    """watts: None = not measured. busy_s, tokens: totals of the engine's time and of the tokens that it computed.

    is_active: requests run at this moment.
    """

    at_s: float
    watts: float | None
    busy_s: float
    tokens: int
    is_active: bool


@dataclass(frozen=True, slots=True)
class _Interval:
    joules: float  # beyond idle power
    busy_s: float
    tokens: int


@dataclass(slots=True)
class EnergyMeter:
    """joules_total: of everything since the start; None = no power was measured. idle_watts: None = not known yet."""

    joules_total: float | None = None
    idle_watts: float | None = None
    _last: EnergySample | None = None
    _was_idle: bool = False
    _idle_count: int = 0
    _busy: deque[_Interval] = field(default_factory=lambda: deque(maxlen=_BUSY_INTERVALS))

    def add(self, sample: EnergySample) -> None:
        """Samples come in order of time, about once a second."""
        last, self._last = self._last, sample
        if last is None or last.watts is None or sample.watts is None:
            self._was_idle = False
            return
        seconds = sample.at_s - last.at_s
        if not 0 < seconds <= LONGEST_GAP_S:
            self._was_idle = False
            return
        watts = (last.watts + sample.watts) / 2
        self.joules_total = (self.joules_total or 0.0) + watts * seconds
        # A worker that was replaced counts from zero.
        busy_s, tokens = max(0.0, sample.busy_s - last.busy_s), max(0, sample.tokens - last.tokens)
        is_idle = not (busy_s or last.is_active or sample.is_active)
        # The worker's totals come up to a second late, so power of an interval before is not sure to be idle power.
        if is_idle and self._was_idle:
            self._learn_idle(watts)
        elif not is_idle and self.idle_watts is not None:
            self._busy.append(_Interval((watts - self.idle_watts) * seconds, busy_s, tokens))
        self._was_idle = is_idle

    def _learn_idle(self, watts: float) -> None:
        self._idle_count = min(self._idle_count + 1, _IDLE_INTERVALS)
        before = watts if self.idle_watts is None else self.idle_watts
        self.idle_watts = before + (watts - before) / self._idle_count

    @property
    def joules_per_busy_s(self) -> float | None:
        """Beyond idle power, per second of the engine's time; None = too little was seen."""
        busy_s = sum(interval.busy_s for interval in self._busy)
        if busy_s < _FEWEST_BUSY_S:
            return None
        return max(0.0, sum(interval.joules for interval in self._busy)) / busy_s

    @property
    def joules_per_token(self) -> float | None:
        """Beyond idle power, per token that was computed, of prompts and of answers; None = too little was seen."""
        tokens, rate = sum(interval.tokens for interval in self._busy), self.joules_per_busy_s
        if not tokens or rate is None:
            return None
        return rate * sum(interval.busy_s for interval in self._busy) / tokens

    def of_request(self, share_s: float) -> float | None:
        """Joules of a request that had so much of the engine's time; None = not measurable here, or not yet."""
        rate = self.joules_per_busy_s
        return None if rate is None else rate * share_s
