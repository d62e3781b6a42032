"""PURE. The stages in which the agent is slowed down for a cause, and which of them holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

# A stage is left only after so long without anything that asks for it.
RELAX_S = 60.0
# Of a sensor that fails, what it told last holds for so long; then one stage after another is left.
HELD_S = 30.0


class Level(IntEnum):
    """warm: slower. hot: also shorter answers, and the least urgent are refused. critical: only urgent ones run."""

    NORMAL = 0
    WARM = 1
    HOT = 2
    CRITICAL = 3


class Cause(StrEnum):
    """Why, in the words of `error.code`."""

    OVERHEATED = "overheated"
    POWER_LIMITED = "power_limited"
    MEMORY_LOW = "memory_low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """decode, prefill: shares of the threads; batch: of the prompt tokens per step; active: of the requests at once."""

    level: Level
    decode: float = 1.0
    prefill: float = 1.0
    batch: float = 1.0
    active: float = 1.0
    max_tokens: int | None = None
    lowest_priority: int | None = None


_NOBODY = -1
# Smaller steps and fewer requests at once save no heat by themselves: they keep a step short, and the requests that run
# quick, where threads have become few. rigs/thermal tells what the stages cost.
_FEW = Stage(level=Level.CRITICAL, decode=0.5, prefill=0.25, batch=0.5, active=0.5, max_tokens=64)
HEAT = (
    Stage(level=Level.WARM, decode=0.75, prefill=0.75),
    Stage(level=Level.WARM, decode=0.5, prefill=0.75),
    Stage(level=Level.WARM, decode=0.5, prefill=0.5, active=0.75),
    Stage(level=Level.HOT, decode=0.5, prefill=0.5, active=0.5, max_tokens=256),
    Stage(level=Level.HOT, decode=0.5, prefill=0.25, batch=0.5, active=0.5, max_tokens=128, lowest_priority=5),
    replace(_FEW, lowest_priority=4),
    replace(_FEW, lowest_priority=0),
    replace(_FEW, lowest_priority=_NOBODY),
)
# Here counts what the board draws at once, not over a while.
POWER = (
    Stage(level=Level.WARM, decode=0.5, prefill=0.5),
    Stage(level=Level.HOT, decode=0.25, prefill=0.25, batch=0.5, active=0.5),
    Stage(level=Level.CRITICAL, decode=0.25, prefill=0.25, batch=0.5, active=0.25, lowest_priority=4),
    Stage(level=Level.CRITICAL, decode=0.25, prefill=0.25, batch=0.5, active=0.25, lowest_priority=0),
)
MEMORY = (
    Stage(level=Level.WARM, active=0.5),
    Stage(level=Level.HOT, active=0.5, max_tokens=128, lowest_priority=5),
    Stage(level=Level.CRITICAL, active=0.25, max_tokens=64, lowest_priority=0),
    Stage(level=Level.CRITICAL, active=0.25, max_tokens=64, lowest_priority=_NOBODY),
)


class Ladder:
    """The stage of one cause.

    most_relax_s: each time that a stage is needed again soon after it was left, the next try waits twice as long, up to
    this.
    """

    def __init__(self, cause: Cause, stages: Sequence[Stage], most_relax_s: float = RELAX_S) -> None:
        self.cause = cause
        self.reason = ""
        self.at = 0
        self._is_needed = False
        self._stages = stages
        self._relax_s = RELAX_S
        self._most_relax_s = most_relax_s
        self._asked_at = -math.inf
        self._loosened_at = -math.inf
        self._known_at = -math.inf

    @property
    def told(self) -> str:
        """The reason as an operator reads it, also when it is one no more."""
        return self.reason if self._is_needed else f"{self.reason} (over, eased step by step)"

    @property
    def stage(self) -> Stage | None:
        return self._stages[self.at - 1] if self.at else None

    def ask(self, now: float, wanted: int, kept: int) -> None:
        """wanted: the stage that is needed now; kept: the one that is not left yet."""
        self._known_at = now
        self._is_needed = max(wanted, kept) >= self.at
        if min(wanted, len(self._stages)) > self.at:
            self._back_off(now)
            self.at = min(wanted, len(self._stages))
            self._asked_at = now
        elif kept >= self.at:
            self._asked_at = now
        elif now - self._asked_at >= self._relax_s:
            self.at -= 1
            self._asked_at = self._loosened_at = now

    def unknown(self, now: float, least: int = 0) -> None:
        """The sensor says nothing: one stage less at a time, down to `least` if it was as much."""
        self._is_needed = True  # for all that is known
        if self.at > least and now - self._known_at >= HELD_S and now - self._loosened_at >= self._relax_s:
            self.at -= 1
            self._asked_at = self._loosened_at = now

    def _back_off(self, now: float) -> None:
        if now - self._loosened_at < 2 * self._relax_s:
            self._relax_s = min(2 * self._relax_s, self._most_relax_s)
        elif not self.at:
            self._relax_s = RELAX_S
        self._loosened_at = -math.inf
