"""Progress of a conversion: how the stages report it, and where it is shown."""

import time
from collections.abc import Callable
from typing import TextIO

REDRAW_S = 0.1
# The time between lines where there is no terminal, as in a log.
REPORT_S = 30.0
# A prediction from a smaller share or a shorter time would jump.
_MIN_SHARE, _MIN_S = 0.02, 10.0
# Called with what is being done and the share of the stage that is done, from 0 to 1.
OnProgress = Callable[[str, float], None]


class ProgressLine:
    """How far the present stage is: drawn over itself on a terminal, elsewhere a new line every REPORT_S."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._shown_at = float("-inf") if self._is_terminal else time.monotonic()
        self._began_at = time.monotonic()
        self._share = 0.0

    def show(self, what: str, share: float) -> None:
        """Shows the progress, unless it was shown just now. A smaller share than the last begins a stage."""
        now = time.monotonic()
        if share < self._share:
            self._began_at = now
        self._share = share
        if now - self._shown_at < (REDRAW_S if self._is_terminal else REPORT_S):
            return
        self._shown_at = now
        line = f"{100 * share:3.0f} %  {what}{_times(now - self._began_at, share)}"
        self._stream.write(f"\r\x1b[K{line}" if self._is_terminal else f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def part_of(progress: OnProgress, begin: float, end: float) -> OnProgress:
    """Progress of a part of the work, which goes from share `begin` to share `end` of the whole."""
    return lambda what, share: progress(what, begin + (end - begin) * share)


def named(progress: OnProgress, what: str) -> OnProgress:
    return lambda _what, share: progress(what, share)


def _times(elapsed: float, share: float) -> str:
    """How long a stage runs, and how much longer it takes at this pace; nothing at its beginning."""
    if elapsed < _MIN_S or share < _MIN_SHARE:
        return ""
    return f", {_clock(elapsed)}, about {_clock(elapsed * (1 - share) / share)} left"


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes}:{left:02} min"
