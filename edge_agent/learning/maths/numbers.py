"""How near answers that are numbers are to the true ones, and whether their intervals hold as many as they should."""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.learning.maths.shares import chance_of_at_least

# Older audits are ignored, so that an alarm can end.
MAX_AUDITS = 200
# At most one false alarm in a year of hourly audits.
_FALSE_ALARM_CHANCE = 1 / 8760


@dataclass(frozen=True, slots=True)
class JudgedNumber:
    """An answer whose true number is known."""

    error: float  # How far it is from the true number.
    is_held: bool  # Whether its interval holds the true number.

    @classmethod
    def of(cls, output: float, true: float, low: float, high: float) -> "JudgedNumber":
        return cls(abs(output - true), low <= true <= high)


def mean_error(judged: Sequence[JudgedNumber]) -> float:
    return sum(number.error for number in judged) / len(judged)


def count_held(judged: Sequence[JudgedNumber]) -> int:
    return sum(number.is_held for number in judged)


def falls_short(audits: Sequence[JudgedNumber], confidence: float) -> bool:
    """Whether the newest audits show that intervals hold the true number less often than this; in the order of time."""
    newest = audits[-MAX_AUDITS:]
    misses = len(newest) - count_held(newest)
    return bool(newest) and chance_of_at_least(misses, len(newest), 1 - confidence) <= _FALSE_ALARM_CHANCE
