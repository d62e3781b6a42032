"""Reports the progress of a load: parts that the engine completed.

That the process is alive is not progress: Python's threads run on while native code hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from edge_agent.core.protocol import Loading

# A load without progress for this long has failed. The longest single part is a full batch of a 3B model on a throttled
# Pi 4, two minutes.
LOAD_SILENCE_S = 300.0
_INTERVAL_S = 1.0


class LoadProgress:
    """Inside `with`, a thread calls `emit` with a Loading each second in which there was progress."""

    def __init__(self, emit: Callable[[Loading], object], *, interval_s: float = _INTERVAL_S) -> None:
        self._emit = emit
        self._interval_s = interval_s
        self._done = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._report, name="load-progress", daemon=True)

    def advance(self) -> None:
        """Call after each part of the work; none may take nearly LOAD_SILENCE_S."""
        self._done += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _report(self) -> None:
        reported = None
        while not self._is_over.wait(self._interval_s):
            if self._done != reported:
                reported = self._done
                self._emit(Loading())
