"""The agent's log, bounded: a flood of bad requests must not fill the card, nor push out what was said before it."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

# Of lines that differ in their values only.
AT_ONCE = 50
THEN_EVERY_S = 10.0
# Kinds are as many as there are calls in the code; libraries may put values into what should be the same.
_MAX_KINDS = 1000


@dataclass(slots=True)
class _Kind:
    credit: float
    seen_at: float
    left_out: int = 0
    level: int = logging.INFO


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Writes AT_ONCE lines of a kind, then one every THEN_EVERY_S seconds, and in it how many were left out.

    What is left out after the last of a kind is told by `close`, at the end of the process.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def emit(self, record: logging.LogRecord) -> None:
        note = self._note(record)
        if note is None:
            return
        if note:
            record = copy.copy(record)
            record.msg, record.args = f"{record.getMessage()} ({note})", None
        super().emit(record)

    def close(self) -> None:
        for (name, message), kind in self._kinds.items():
            if kind.left_out:
                told = f"{kind.left_out} lines like this one were left out at last: {message}"
                super().emit(logging.LogRecord(name, kind.level, "", 0, told, None, None))
        self._kinds.clear()
        super().close()

    def _note(self, record: logging.LogRecord) -> str | None:
        """What is to be added to the line, often nothing; None = it is left out."""
        now = self._clock()
        kind = self._kind(record, now)
        kind.credit = min(AT_ONCE, kind.credit + (now - kind.seen_at) / THEN_EVERY_S)
        kind.seen_at = now
        if kind.credit < 1:
            kind.left_out += 1
            kind.level = record.levelno
            return None
        kind.credit -= 1
        left_out, kind.left_out = kind.left_out, 0
        notes = [f"{left_out} lines like this one were left out before it"] if left_out else []
        if kind.credit < 1 and not left_out:
            notes.append(f"from here on one of these is told in {THEN_EVERY_S:.0f} s")
        return "; ".join(notes)

    def _kind(self, record: logging.LogRecord, now: float) -> _Kind:
        key = (record.name, str(record.msg))
        found = self._kinds.pop(key, None)
        if found is None and len(self._kinds) >= _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[key] = found or _Kind(AT_ONCE, now)
        return self._kinds[key]
