"""PURE. What the board feels -> how much the agent may do, before the kernel or the firmware slows it down.

Three causes, each with a ladder of stages (governor_stages.py): heat, an input voltage that is too low, memory that
runs out. The first stages take what costs least: some threads (where memory bandwidth is the limit, fewer lose little),
then prompt tokens of a step, requests at once, the length of answers; the last ones refuse requests, the least urgent
first.

A cause tightens at once, as far as is needed; it loosens by one stage at a time, after a while well below what
tightened it: it must not swing. Heat that is only foreseen slows down, no more. What was never known limits nothing;
what is not known any more is forgotten stage by stage, but for the first one of heat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edge_agent.board.governor_stages import HEAT, MEMORY, POWER, RELAX_S, Cause, Ladder, Level

# The temperature, smoothed; its slope is told by a longer mean, which lags behind by so much more.
_SMOOTHED_S = 4.0
_TREND_S = 20.0
# The slope is believed for so long ahead, and for no more than so many degrees: when work begins a die jumps by some,
# and then rises slowly with what cools it.
_FORESEEN_S = 20.0
_MOST_FORESEEN_C = 2.0
_HYSTERESIS_C = 2.0
# Hotter than the limit by this, nothing holds it any more: everything is refused.
_OUT_OF_HAND_C = 8.0

# While the voltage stays too low, another stage is taken after so long. Where it falls again as soon as a limit is
# taken back, each try waits twice as long as the one before, up to this.
_UNDERVOLTAGE_STAGE_S = 10.0
_MOST_RELAX_S = 16 * RELAX_S

# Available memory, in reserves, where the stages begin; one is left with so much more.
_MEMORY_STAGES = (2.0, 1.5, 1.0, 0.5)
_MEMORY_HYSTERESIS = 1.25
_RESERVED_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the board says now; None = unknown. at_s: seconds of a monotonic clock.

    limit_c: from where on the kernel or the firmware slows the SoC down, be it progressively.
    """

    at_s: float
    soc_c: float | None = None
    limit_c: float | None = None
    undervoltage_now: bool | None = None
    memory_available_mb: float | None = None
    memory_total_mb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the engine does without limits; 1 = nothing that could be limited."""

    decode_threads: int = 1
    prefill_threads: int = 1
    batch_tokens: int = 1
    max_active: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed now; None = no limit.

    lowest_priority: requests with a larger number are refused; -1 = all are. cause: of the refusals, if there are any.
    causes: of all that is limited.
    """

    level: Level = Level.NORMAL
    reason: str | None = None
    cause: Cause | None = None
    causes: tuple[Cause, ...] = ()
    decode_threads: int | None = None
    prefill_threads: int | None = None
    batch_tokens: int | None = None
    max_active: int | None = None
    max_tokens: int | None = None
    lowest_priority: int | None = None

    def refusal(self, priority: int) -> Cause | None:
        """Why a request of this priority is `busy`, until RELAX_S from now at the least; None = it may come in."""
        return self.cause if self.lowest_priority is not None and priority > self.lowest_priority else None

    def as_health(self) -> dict[str, Any]:
        """The health document's `governor`."""
        names = ("decode_threads", "prefill_threads", "batch_tokens", "max_active", "max_tokens", "lowest_priority")
        limits = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {"level": self.level.name.lower(), "limits": limits, "reason": self.reason}


NO_LIMITS = Limits()


class Governor:
    """Fed with every sample, in order. capacity: may be set when the engine has told it.

    headroom_c: how far below the SoC's limit the first stage begins. memory_reserve_mb: what should stay available;
    None = 5 % of the memory. Without `enabled` nothing is limited.
    """

    def __init__(
        self,
        *,
        enabled: bool = True,
        headroom_c: float = 2.0,
        memory_reserve_mb: float | None = None,
        capacity: Capacity = Capacity(),
    ) -> None:
        self.capacity = capacity
        self._enabled = enabled
        self._memory_reserve_mb = memory_reserve_mb
        last = len(HEAT) - 1
        self._heat_c = (*(headroom_c * (1 - at / (last + 1)) for at in range(last)), -_OUT_OF_HAND_C)
        self._heat = Ladder(Cause.OVERHEATED, HEAT)
        self._power = Ladder(Cause.POWER_LIMITED, POWER, _MOST_RELAX_S)
        self._memory = Ladder(Cause.MEMORY_LOW, MEMORY)
        self._power_stage_at = -math.inf
        self._smoothed = _Mean(_SMOOTHED_S)
        self._trend = _Mean(_TREND_S)

    def observe(self, sample: Sample) -> Limits:
        """The limits from now on; equal ones as long as nothing changes."""
        self._feel_heat(sample)
        self._feel_power(sample)
        self._feel_memory(sample)
        return self._limits() if self._enabled else NO_LIMITS

    def _feel_heat(self, sample: Sample) -> None:
        if sample.soc_c is None or sample.limit_c is None or not math.isfinite(sample.soc_c - sample.limit_c):
            # A board that was hot when it was heard last is not to work at full power unseen.
            self._heat.unknown(sample.at_s, least=1)
            if self._heat.at:
                self._heat.reason = "the SoC was hot when it last told its temperature"
            return
        now_c = self._smoothed.add(sample.at_s, sample.soc_c)
        slope = (now_c - self._trend.add(sample.at_s, sample.soc_c)) / (_TREND_S - _SMOOTHED_S)
        rise_c = min(max(0.0, slope * _FORESEEN_S), _MOST_FORESEEN_C)
        left_c = sample.limit_c - now_c
        self._heat.reason = f"the SoC is near its limit of {sample.limit_c:g} °C"
        self._heat.ask(sample.at_s, self._heat_stage(left_c, rise_c), self._heat_stage(left_c - _HYSTERESIS_C, rise_c))

    def _heat_stage(self, left_c: float, rise_c: float) -> int:
        """The stage for so many degrees left, of which so many more will go."""
        begun = (
            number
            for number, (stage, at_c) in enumerate(zip(HEAT, self._heat_c, strict=True), 1)
            if left_c - (rise_c if stage.level is Level.WARM else 0.0) <= at_c
        )
        return max(begun, default=0)

    def _feel_power(self, sample: Sample) -> None:
        power, now = self._power, sample.at_s
        if sample.undervoltage_now is None:
            power.unknown(now)
            return
        power.reason = "the input voltage is too low"
        wanted = 0
        if sample.undervoltage_now:
            is_due = not power.at or now - self._power_stage_at >= _UNDERVOLTAGE_STAGE_S
            wanted = power.at + 1 if is_due else power.at
            self._power_stage_at = now if is_due else self._power_stage_at
        power.ask(now, wanted, wanted)

    def spare_mb(self, available_mb: float | None, total_mb: float | None) -> float | None:
        """Memory that may be taken before it limits anything; None = unknown."""
        reserve_mb = self._reserve_mb(total_mb)
        return None if reserve_mb is None or available_mb is None else available_mb - _MEMORY_STAGES[0] * reserve_mb

    def _reserve_mb(self, total_mb: float | None) -> float | None:
        if self._memory_reserve_mb is not None or total_mb is None:
            return self._memory_reserve_mb
        return _RESERVED_SHARE * total_mb

    def _feel_memory(self, sample: Sample) -> None:
        reserve_mb = self._reserve_mb(sample.memory_total_mb)
        available_mb = sample.memory_available_mb
        if available_mb is None or reserve_mb is None:
            self._memory.unknown(sample.at_s)
            return
        wanted = sum(available_mb < count * reserve_mb for count in _MEMORY_STAGES)
        kept = sum(available_mb < _MEMORY_HYSTERESIS * count * reserve_mb for count in _MEMORY_STAGES)
        self._memory.reason = f"less memory is available than {_MEMORY_STAGES[0] * reserve_mb:.0f} MB"
        self._memory.ask(sample.at_s, wanted, kept)

    def _limits(self) -> Limits:
        active = [(ladder, stage) for ladder in (self._heat, self._power, self._memory) if (stage := ladder.stage)]
        if not active:
            return NO_LIMITS
        stages, full = [stage for _, stage in active], self.capacity
        refusing = [(stage.lowest_priority, ladder) for ladder, stage in active if stage.lowest_priority is not None]
        lowest, cause = min(((at, ladder.cause) for at, ladder in refusing), default=(None, None))
        return Limits(
            level=max(stage.level for stage in stages),
            reason="; ".join(ladder.told for ladder, _ in active),
            cause=cause,
            causes=tuple(ladder.cause for ladder, _ in active),
            decode_threads=_share(min(stage.decode for stage in stages), full.decode_threads),
            prefill_threads=_share(min(stage.prefill for stage in stages), full.prefill_threads),
            batch_tokens=_share(min(stage.batch for stage in stages), full.batch_tokens),
            max_active=_share(min(stage.active for stage in stages), full.max_active),
            max_tokens=min((stage.max_tokens for stage in stages if stage.max_tokens), default=None),
            lowest_priority=lowest,
        )


class _Mean:
    """An exponential mean over about so many seconds."""

    def __init__(self, over_s: float) -> None:
        self._over_s = over_s
        self._at_s = 0.0
        self._value: float | None = None

    def add(self, at_s: float, value: float) -> float:
        if self._value is None:
            self._value = value
        weight = -math.expm1(-max(0.0, at_s - self._at_s) / self._over_s)
        self._value += weight * (value - self._value)
        self._at_s = at_s
        return self._value


def _share(share: float, full: int) -> int | None:
    """Rounded up, and so at least 1; None = that is no limit."""
    limit = math.ceil(share * full)
    return limit if limit < full else None
