"""PURE. How many requests a task, or who listens on a reply topic, may ask in a minute."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable

# Of those who asked the longest ago, nothing is known: they may ask as if for the first time.
MAX_KNOWN = 1000
_MINUTE_S = 60.0


class RateLimits:
    """A bucket for each key: it holds a minute's worth at most, and fills all the time."""

    def __init__(self) -> None:
        # What is in it, and when it was looked at; the latest last.
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: Hashable, per_minute: float, now: float) -> float:
        """Takes one out, and gives 0; or, where there is none, the seconds until there is one, in tenths."""
        content, at = self._buckets.pop(key, (per_minute, now))
        content = min(per_minute, content + (now - at) * per_minute / _MINUTE_S)
        is_enough = content >= 1
        self._buckets[key] = (content - is_enough, now)
        if len(self._buckets) > MAX_KNOWN:
            self._buckets.popitem(last=False)
        return 0.0 if is_enough else math.ceil((1 - content) * _MINUTE_S / per_minute * 10) / 10
