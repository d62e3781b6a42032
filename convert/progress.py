"""Progress of a conversion: how the stages report it, and the line that shows it on a terminal."""

import time
from collections.abc import Callable
from typing import TextIO

REDRAW_S = 0.1
# Called with what is being done and the share of it that is done, from 0 to 1.
OnProgress = Callable[[str, float], None]


class ProgressLine:
    """One line on a terminal, drawn over itself; nothing where `stream` is not a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn_at = float("-inf")

    def show(self, what: str, share: float) -> None:
        """Draws the line, at most every REDRAW_S seconds."""
        now = time.monotonic()
        if self._stream.isatty() and now - self._drawn_at >= REDRAW_S:
            self._drawn_at = now
            self._stream.write(f"\r\x1b[K{100 * share:3.0f} %  {what}")
            self._stream.flush()

    def close(self) -> None:
        """Removes the line."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def part_of(progress: OnProgress, begin: float, end: float) -> OnProgress:
    """Progress of a part of the work, which goes from share `begin` to share `end` of the whole."""
    return lambda what, share: progress(what, begin + (end - begin) * share)
