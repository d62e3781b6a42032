"""The line that shows a conversion's progress on a terminal."""

import time
from typing import TextIO

REDRAW_S = 0.1


class ProgressLine:
    """One line on `stream` that is drawn over itself, and nothing at all where `stream` is no terminal."""

    def __init__(self, stream: TextIO, total_bytes: int) -> None:
        self._stream = stream
        self._total = max(1, total_bytes)
        self._done = 0
        self._is_shown = stream.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0

    def add(self, name: str, nbytes: int) -> None:
        """Count `nbytes` written of the tensor `name`."""
        self._done += nbytes
        now = time.monotonic()
        if not self._is_shown or now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        rate = self._done / 1e6 / max(now - self._started, 1e-3)
        self._stream.write(f"\r\x1b[K{100 * self._done // self._total:3d} %  {rate:6.1f} MB/s  {name}")
        self._stream.flush()

    def close(self) -> None:
        """Remove the line."""
        if self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class StageLine:
    """The same for work of several kinds: what is done now, and the share that is done; in a log one line per kind."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._kind = ""
        self._drawn = 0.0

    def show(self, what: str, share: float) -> None:
        """share: from 0 to 1. The first word of `what` is its kind."""
        now = time.monotonic()
        kind = what.partition(" ")[0]
        if self._is_terminal and now - self._drawn >= REDRAW_S:
            self._drawn = now
            self._stream.write(f"\r\x1b[K{100 * share:3.0f} %  {what}")
        elif not self._is_terminal and kind != self._kind:
            self._stream.write(f"{kind}\n")
        self._kind = kind
        self._stream.flush()

    def close(self) -> None:
        """Remove the line."""
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
