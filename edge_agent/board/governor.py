"""Decides from each reading of the board how much the agent may do, before kernel or firmware slow the board down.

There are three causes: heat, an input voltage that is too low, and memory that runs out. Each has a ladder of stages.
The first stages take what costs least: threads, then requests at once, the length of answers, prompt tokens of a step.
The last stages refuse requests, the least urgent first.

A ladder tightens at once, as far as needed. It eases by one stage at a time, so that it does not swing. A reading that
is unknown limits nothing and lets limits ease.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from edge_agent.board.reading import BoardReading, Memory, Thermal, Throttle
from edge_agent.core.codes import Code
from edge_agent.core.config import GovernorConfig
from edge_agent.core.pipe import Ready, SetLimits

# A limit eases by one stage after this long without need for it; a refused request may come back then.
RELAX_S = 60.0

# The temperature is a mean over about this long, so that one reading that is off refuses no requests.
_SMOOTHED_S = 4.0
_HYSTERESIS_C = 2.0
# Above the limit by this much, all requests are refused.
_OUT_OF_HAND_C = 8.0

# While the voltage stays too low, the next stage is entered after this long. A weak supply falls again as soon as work
# comes back, so its limits ease later than those of the other causes.
_UNDERVOLTAGE_STAGE_S = 10.0
_UNDERVOLTAGE_RELAX_S = 5 * RELAX_S

# The stages begin when available memory falls to these multiples of the reserve. A stage is left once there is
# _MEMORY_HYSTERESIS times as much.
_MEMORY_STAGES = (2.0, 1.5, 1.0, 0.5)
_MEMORY_HYSTERESIS = 1.25
_DEFAULT_RESERVE_SHARE = 0.05


class Level(IntEnum):
    NORMAL = 0
    WARM = 1
    """The agent works more slowly."""
    HOT = 2
    """Answers may be shorter too, and the least urgent requests refused."""
    CRITICAL = 3
    """Only urgent requests are admitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed now; None where there is no limit."""

    level: Level = Level.NORMAL
    reason: str | None = None
    refusal_cause: Code | None = None
    """Why requests below `lowest_priority` are refused."""
    causes: tuple[Code, ...] = ()
    """The causes of all limits."""
    decode_threads: int | None = None
    prefill_threads: int | None = None
    batch_tokens: int | None = None
    max_active: int | None = None
    max_tokens: int | None = None
    lowest_priority: int | None = None
    """Requests with a larger number are refused; at -1 all are."""

    def refusal(self, priority: int) -> Code | None:
        """Why a request of this priority is `busy`, for at least RELAX_S; None if it is admitted."""
        is_refused = self.lowest_priority is not None and priority > self.lowest_priority
        return self.refusal_cause if is_refused else None

    def for_worker(self) -> SetLimits:
        """The part of the limits that the worker applies."""
        return SetLimits(
            threads=self.decode_threads,
            prefill_threads=self.prefill_threads,
            batch_tokens=self.batch_tokens,
            max_active=self.max_active,
        )

    def as_health(self) -> dict[str, Any]:
        names = ("decode_threads", "prefill_threads", "batch_tokens", "max_active", "max_tokens", "lowest_priority")
        limits = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {"governor": {"level": self.level.name.lower(), "limits": limits, "reason": self.reason}}


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Shares of what the worker can do: of its threads, of a step's prompt tokens, of requests at once."""

    level: Level
    decode_threads: float = 1.0
    prefill_threads: float = 1.0
    batch_tokens: float = 1.0
    max_active: float = 1.0
    max_tokens: int | None = None
    lowest_priority: int | None = None


_NONE_ADMITTED = -1
# Smaller steps and fewer requests at once save no heat by themselves. They keep steps short once threads are few.
_CRITICAL_HEAT = Stage(
    level=Level.CRITICAL, decode_threads=0.5, prefill_threads=0.25, batch_tokens=0.5, max_active=0.5, max_tokens=64
)
HEAT = (
    Stage(level=Level.WARM, decode_threads=0.75, prefill_threads=0.75),
    Stage(level=Level.WARM, decode_threads=0.5, prefill_threads=0.75),
    Stage(level=Level.WARM, decode_threads=0.5, prefill_threads=0.5, max_active=0.75),
    Stage(level=Level.HOT, decode_threads=0.5, prefill_threads=0.5, max_active=0.5, max_tokens=256),
    replace(_CRITICAL_HEAT, level=Level.HOT, max_tokens=128, lowest_priority=5),
    replace(_CRITICAL_HEAT, lowest_priority=4),
    replace(_CRITICAL_HEAT, lowest_priority=0),
    replace(_CRITICAL_HEAT, lowest_priority=_NONE_ADMITTED),
)
# What the board draws at one moment counts here, not what it draws over time.
_CRITICAL_POWER = Stage(
    level=Level.CRITICAL, decode_threads=0.25, prefill_threads=0.25, batch_tokens=0.5, max_active=0.25
)
POWER = (
    Stage(level=Level.WARM, decode_threads=0.5, prefill_threads=0.5),
    replace(_CRITICAL_POWER, level=Level.HOT, max_active=0.5),
    replace(_CRITICAL_POWER, lowest_priority=4),
    replace(_CRITICAL_POWER, lowest_priority=0),
)
MEMORY = (
    Stage(level=Level.WARM, max_active=0.5),
    Stage(level=Level.HOT, max_active=0.5, max_tokens=128, lowest_priority=5),
    Stage(level=Level.CRITICAL, max_active=0.25, max_tokens=64, lowest_priority=0),
    Stage(level=Level.CRITICAL, max_active=0.25, max_tokens=64, lowest_priority=_NONE_ADMITTED),
)


class Governor:
    """`decide` takes every reading, in order; `limits` are the latest ones. Times are seconds of a monotonic clock."""

    def __init__(self, config: GovernorConfig) -> None:
        self.limits = NO_LIMITS
        self._config = config
        # What the worker does without limits. A number that is None is unknown, and so not limited.
        self._capacity: Ready | SetLimits = SetLimits()
        self._heat = _Ladder(Code.OVERHEATED, HEAT)
        self._power = _Ladder(Code.POWER_LIMITED, POWER, _UNDERVOLTAGE_RELAX_S)
        self._memory = _Ladder(Code.MEMORY_LOW, MEMORY)
        self._power_stage_at = -math.inf
        self._smoothed_c: float | None = None
        self._smoothed_at = 0.0

    def reconfigure(self, config: GovernorConfig) -> None:
        """Applies from the next reading on."""
        self._config = config

    def set_capacity(self, capacity: Ready | SetLimits) -> None:
        """Limits are shares of this, from the next reading on."""
        self._capacity = capacity

    def decide(self, reading: BoardReading, now: float) -> Limits:
        """The limits from now on; equal to those before while nothing changes."""
        self._decide_heat(reading.thermal, now)
        self._decide_power(reading.throttle, now)
        self._decide_memory(reading.memory, now)
        self.limits = self._combined() if self._config.enabled else NO_LIMITS
        return self.limits

    def spare_mb(self, memory: Memory) -> float | None:
        """Memory that may still be used before anything is limited, in MB; None if unknown."""
        reserve_mb = self._reserve_mb(memory)
        if memory.available_mb is None or reserve_mb is None:
            return None
        return memory.available_mb - _MEMORY_STAGES[0] * reserve_mb

    def _decide_heat(self, thermal: Thermal, now: float) -> None:
        if thermal.soc_c is None or thermal.limit_c is None:
            self._heat.ease(now)
            return
        if self._smoothed_c is None:
            self._smoothed_c = thermal.soc_c
        weight = -math.expm1((self._smoothed_at - now) / _SMOOTHED_S)
        self._smoothed_c += weight * (thermal.soc_c - self._smoothed_c)
        self._smoothed_at = now
        headroom_c = thermal.limit_c - self._smoothed_c
        reason = f"the SoC is near its limit of {thermal.limit_c:g} °C"
        enter, keep = self._heat_stage(headroom_c), self._heat_stage(headroom_c - _HYSTERESIS_C)
        self._heat.require(now, reason, enter=enter, keep=keep)

    def _heat_stage(self, headroom_c: float) -> int:
        """The stages begin at equal steps below the limit, the last one far above it."""
        count = len(HEAT)
        thresholds_c = [self._config.headroom_c * (1 - at / count) for at in range(count - 1)] + [-_OUT_OF_HAND_C]
        return sum(headroom_c <= at_c for at_c in thresholds_c)

    def _decide_power(self, throttle: Throttle, now: float) -> None:
        if not throttle.undervoltage_now:
            self._power.ease(now)
            return
        stage_number = self._power.stage_number
        if not stage_number or now - self._power_stage_at >= _UNDERVOLTAGE_STAGE_S:
            stage_number += 1
            self._power_stage_at = now
        self._power.require(now, "the input voltage is too low", enter=stage_number, keep=stage_number)

    def _decide_memory(self, memory: Memory, now: float) -> None:
        available_mb, reserve_mb = memory.available_mb, self._reserve_mb(memory)
        if available_mb is None or reserve_mb is None:
            self._memory.ease(now)
            return
        enter = sum(available_mb < count * reserve_mb for count in _MEMORY_STAGES)
        keep = sum(available_mb < _MEMORY_HYSTERESIS * count * reserve_mb for count in _MEMORY_STAGES)
        reason = f"less than {_MEMORY_STAGES[0] * reserve_mb:.0f} MB of memory are available"
        self._memory.require(now, reason, enter=enter, keep=keep)

    def _reserve_mb(self, memory: Memory) -> float | None:
        if self._config.memory_reserve_mb is not None or memory.total_mb is None:
            return self._config.memory_reserve_mb
        return _DEFAULT_RESERVE_SHARE * memory.total_mb

    def _combined(self) -> Limits:
        """The tightest limit of each kind among the causes."""
        active = [(ladder, stage) for ladder in (self._heat, self._power, self._memory) if (stage := ladder.stage)]
        if not active:
            return NO_LIMITS
        stages, capacity = [stage for _, stage in active], self._capacity
        refusing = [(stage.lowest_priority, ladder) for ladder, stage in active if stage.lowest_priority is not None]
        lowest, cause = min(((priority, ladder.cause) for priority, ladder in refusing), default=(None, None))
        return Limits(
            level=max(stage.level for stage in stages),
            reason="; ".join(ladder.reason for ladder, _ in active),
            refusal_cause=cause,
            causes=tuple(ladder.cause for ladder, _ in active),
            decode_threads=_share(min(stage.decode_threads for stage in stages), capacity.threads),
            prefill_threads=_share(min(stage.prefill_threads for stage in stages), capacity.prefill_threads),
            batch_tokens=_share(min(stage.batch_tokens for stage in stages), capacity.batch_tokens),
            max_active=_share(min(stage.max_active for stage in stages), capacity.max_active),
            max_tokens=min((stage.max_tokens for stage in stages if stage.max_tokens), default=None),
            lowest_priority=lowest,
        )


class _Ladder:
    """The stage of one cause. It eases by one stage after relax_s without need."""

    def __init__(self, cause: Code, stages: Sequence[Stage], relax_s: float = RELAX_S) -> None:
        self.cause = cause
        # Counts from 1; 0 while there is no stage.
        self.stage_number = 0
        self._stages = stages
        self._relax_s = relax_s
        # Why it was entered; it eases stage by stage when that is over.
        self.reason = ""
        self._needed_at = -math.inf

    @property
    def stage(self) -> Stage | None:
        return self._stages[self.stage_number - 1] if self.stage_number else None

    def require(self, now: float, reason: str, *, enter: int, keep: int) -> None:
        """`enter` is the stage that is needed now, `keep` the highest stage that is not left yet."""
        self.reason = reason
        enter = min(enter, len(self._stages))
        if enter > self.stage_number:
            self.stage_number, self._needed_at = enter, now
        elif keep >= self.stage_number:
            self._needed_at = now
        elif now - self._needed_at >= self._relax_s:
            self.stage_number, self._needed_at = self.stage_number - 1, now

    def ease(self, now: float) -> None:
        """For a reading by which no stage is needed, or from which nothing is known."""
        self.require(now, self.reason, enter=0, keep=0)


def _share(share: float, full: int | None) -> int | None:
    """The share of the full number, rounded up and so at least 1; None if there is no limit."""
    return None if full is None or math.ceil(share * full) == full else math.ceil(share * full)
