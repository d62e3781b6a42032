"""Tells that a load gets on: by what the engine has done, or the kernel has read from the disk for it, within a second.

Not by living: a thread of Python's goes on beside native code that hangs.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from edge_agent.core.protocol import Loading, LoadPhase

# A load that has not got on for so long never will. Of all that it does at a stretch a Pi 4 takes longest for a full
# batch of a 3B model, which is two minutes once it is throttled.
LOAD_SILENCE_S = 300.0
_INTERVAL_S = 1.0
_IO = Path("/proc/self/io")


class LoadProgress:
    """While it is entered, a thread calls `emit` with a Loading each second in which anything was done."""

    def __init__(self, emit: Callable[[Loading], object], *, interval_s: float = _INTERVAL_S) -> None:
        self._emit = emit
        self._interval_s = interval_s
        self._phase = LoadPhase.PROGRAM
        self._done = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="load-progress", daemon=True)

    def enter(self, phase: LoadPhase) -> None:
        """What follows belongs to this phase."""
        self._phase = phase
        self.advance()

    def advance(self) -> None:
        """A part of the work is done, of which none takes long beside LOAD_SILENCE_S."""
        self._done += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _tell(self) -> None:
        told = None
        while not self._is_over.wait(self._interval_s):
            # Pages of a mapped file come in the midst of native code, which tells nobody.
            now = self._done, _read_bytes()
            if now != told:
                told = now
                self._emit(Loading(phase=self._phase))


def _read_bytes() -> int | None:
    """What this process had read from disks; None = the kernel does not count it."""
    try:
        found = re.search(r"(?m)^read_bytes: (\d+)$", _IO.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) if found else None
