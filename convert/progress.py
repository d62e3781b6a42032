"""How far the work is: who hears of it, and the line that shows it on a terminal."""

import time
from collections.abc import Callable
from typing import TextIO

REDRAW_S = 0.1
# Hears what is done, and which share of all.
Progress = Callable[[str, float], None]


class StageLine:
    """One line on `stream` that is drawn over itself: what is done now, and the share that is done.

    Where `stream` is no terminal, one line for each kind of work, or none unless `is_logged`.
    """

    def __init__(self, stream: TextIO, *, is_logged: bool = True) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._is_logged = is_logged
        self._kind = ""
        self._drawn = 0.0

    def show(self, what: str, share: float) -> None:
        """share: from 0 to 1. The first word of `what` is its kind."""
        now = time.monotonic()
        kind = what.partition(" ")[0]
        if self._is_terminal and now - self._drawn >= REDRAW_S:
            self._drawn = now
            self._stream.write(f"\r\x1b[K{100 * share:3.0f} %  {what}")
            self._stream.flush()
        elif not self._is_terminal and self._is_logged and kind != self._kind:
            self._stream.write(f"{kind}\n")
            self._stream.flush()
        self._kind = kind

    def close(self) -> None:
        """Remove the line."""
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def writing(line: StageLine, total_bytes: int) -> Callable[[str, int], None]:
    """Hears each tensor's name and the bytes written of it, and shows the share of all."""
    started, done = time.monotonic(), 0

    def add(name: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        rate = done / 1e6 / max(time.monotonic() - started, 1e-3)
        line.show(f"writing {name}  {rate:.1f} MB/s", done / max(1, total_bytes))

    return add
