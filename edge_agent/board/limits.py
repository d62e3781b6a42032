"""The limits under which the agent works, and why: what the governor decides and other parts apply."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from edge_agent.core.protocol import SetLimits

# A limit eases by one stage after this long without need for it; a refused request may come back then.
RELAX_S = 60.0


class Level(IntEnum):
    """WARM: slower. HOT: also shorter answers, the least urgent requests are refused. CRITICAL: only urgent ones."""

    NORMAL = 0
    WARM = 1
    HOT = 2
    CRITICAL = 3


class LimitCause(StrEnum):
    """Why the agent limits itself; the values are codes of `error.code`."""

    OVERHEATED = "overheated"
    POWER_LIMITED = "power_limited"
    MEMORY_LOW = "memory_low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed now; None = no limit.

    lowest_priority: requests with a larger number are refused; -1 = all are. refusal_cause: why they are refused.
    causes: of all limits.
    """

    level: Level = Level.NORMAL
    reason: str | None = None
    refusal_cause: LimitCause | None = None
    causes: tuple[LimitCause, ...] = ()
    decode_threads: int | None = None
    prefill_threads: int | None = None
    batch_tokens: int | None = None
    max_active: int | None = None
    max_tokens: int | None = None
    lowest_priority: int | None = None

    def refusal(self, priority: int) -> LimitCause | None:
        """Why a request of this priority is `busy`, for at least RELAX_S; None = it is admitted."""
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
        """The health document's `governor`."""
        names = ("decode_threads", "prefill_threads", "batch_tokens", "max_active", "max_tokens", "lowest_priority")
        limits = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {"level": self.level.name.lower(), "limits": limits, "reason": self.reason}


NO_LIMITS = Limits()
