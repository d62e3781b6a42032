"""A log handler with a rate limit, so that a flood of bad requests fills neither the card nor the journal."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TextIO

# This many lines of each kind are written. Lines of one kind differ only in their values.
MAX_LINES = 50
PERIOD_S = 600.0
# There is one kind for each log call in the code; libraries may put values into the message itself.
MAX_KINDS = 1000


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Writes MAX_LINES of a kind in PERIOD_S. The last one says so, the first one after that how many were left out.

    It changes that record, so it must be the only handler.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._ends_at = clock() + PERIOD_S
        self._lines = Counter[tuple[str, str]]()
        self._left_out = Counter[tuple[str, str]]()

    def emit(self, record: logging.LogRecord) -> None:
        if (now := self._clock()) >= self._ends_at or len(self._lines) >= MAX_KINDS:
            self._ends_at = now + PERIOD_S
            self._left_out = self._lines - Counter(dict.fromkeys(self._lines, MAX_LINES))
            self._lines.clear()
        kind = (record.name, str(record.msg))
        self._lines[kind] += 1
        if self._lines[kind] > MAX_LINES:
            return
        notes = []
        if left_out := self._left_out.pop(kind, 0):
            notes.append(f"{left_out} similar lines were left out")
        if self._lines[kind] == MAX_LINES:
            notes.append(f"further similar lines are left out for {self._ends_at - now:.0f} s")
        if notes:
            record.msg, record.args = f"{record.getMessage()} ({'; '.join(notes)})", None
        super().emit(record)
