"""PURE. How many requests a task, or who listens on a reply topic, may ask in a minute."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.core.messages import Code, Refusal

# Of those who asked the longest ago, nothing is known: they may ask as if for the first time.
MAX_KNOWN = 1000
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class RateLimit:
    """what: is limited, as its caller is told. name: of the one among its kind; each has a limit of its own."""

    what: str
    name: str
    per_minute: int


class Rates:
    """A bucket for each that is limited: it holds a minute's worth at most, and fills all the time."""

    def __init__(self) -> None:
        # What is in it, and when it was looked at; the latest last.
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, limits: Sequence[RateLimit], now: float) -> None:
        """One out of each. Raises Refusal where there is none, with the seconds until there is one, in tenths: then
        nothing is taken."""
        for limit in limits:
            missing = 1 - self._content(limit, now)
            if missing > 0:
                wait_s = math.ceil(missing * _MINUTE_S / limit.per_minute * 10) / 10
                message = f"{limit.what}: at most {limit.per_minute} requests a minute"
                raise Refusal(Code.RATE_LIMITED, message, wait_s)
        for limit in limits:
            key = (limit.what, limit.name)
            self._buckets[key] = (self._content(limit, now) - 1, now)
            self._buckets.move_to_end(key)
            if len(self._buckets) > MAX_KNOWN:
                self._buckets.popitem(last=False)

    def _content(self, limit: RateLimit, now: float) -> float:
        content, at = self._buckets.get((limit.what, limit.name), (limit.per_minute, now))
        return min(limit.per_minute, content + (now - at) * limit.per_minute / _MINUTE_S)
