"""How many requests a task, or the reader of a reply topic, may ask in a minute: token buckets."""

from __future__ import annotations

import math
from collections import OrderedDict

from edge_agent.core.messages import Code, Refusal

# Buckets that are kept. The one that was used the longest ago is dropped, as if it were full.
MAX_BUCKETS = 1000
_MINUTE_S = 60.0


class RateLimiter:
    """A bucket for each limited thing: it holds a minute's worth of requests at most, and fills all the time."""

    def __init__(self) -> None:
        # The content, and when it was true; the latest last.
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, subject: str, name: str, per_minute: int, now: float) -> None:
        """Counts a request. Raises Refusal if the bucket is empty, with the seconds until it is not, in tenths.

        subject: what is limited, for the caller. name: tells buckets of one subject apart.
        """
        content, at = self._buckets.get((subject, name), (per_minute, now))
        content = min(per_minute, content + (now - at) * per_minute / _MINUTE_S)
        if content < 1:
            wait_s = math.ceil((1 - content) * _MINUTE_S / per_minute * 10) / 10
            raise Refusal(Code.RATE_LIMITED, f"{subject}: at most {per_minute} requests a minute", wait_s)
        self._buckets[subject, name] = (content - 1, now)
        self._buckets.move_to_end((subject, name))
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
