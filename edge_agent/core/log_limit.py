"""A log handler with a rate limit, so that a flood of bad requests fills neither the card nor the journal."""

from __future__ import annotations

import copy
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

# A token bucket for each kind of line. Lines of one kind differ in their values only.
BURST = 50
THEN_EVERY_S = 10.0
# There is one kind for each log call in the code; libraries may put values into the message itself.
MAX_KINDS = 1000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float
    left_out: int = 0


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Writes BURST lines of a kind, then one every THEN_EVERY_S seconds, which says how many were left out."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        bucket = self._bucket((record.name, str(record.msg)))
        if bucket.tokens < 1:
            bucket.left_out += 1
            return
        bucket.tokens -= 1
        if bucket.left_out:
            record = copy.copy(record)
            record.msg, record.args = f"{record.getMessage()} ({bucket.left_out} similar lines were left out)", None
            bucket.left_out = 0
        super().emit(record)

    def _bucket(self, kind: tuple[str, str]) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(kind, _Bucket(BURST, now))
        self._buckets.move_to_end(kind)
        if len(self._buckets) > MAX_KINDS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.filled_at) / THEN_EVERY_S)
        bucket.filled_at = now
        return bucket
