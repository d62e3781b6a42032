"""How the tools print: progress on standard error, faults, and tables of aligned columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from time import monotonic

from edge_agent.core.errors import printable

UNKNOWN = "–"
_LINE_EVERY_S = 10.0


class ProgressLine:
    """On a terminal one line that is overwritten; elsewhere a line per phase, and at most one more every 10 s."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._clock = clock
        self._phase: str | None = None
        self._next_at = 0.0

    def say(self, text: str) -> None:
        """text: the phase, or `phase: position in it`."""
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif self._is_due(text.partition(":")[0]):
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._is_terminal:
            self.say("")

    def _is_due(self, phase: str) -> bool:
        now = self._clock()
        if phase == self._phase and now < self._next_at:
            return False
        self._phase, self._next_at = phase, now + _LINE_EVERY_S
        return True


def fail(message: str) -> int:
    """Prints why a command failed; returns its exit code, 1."""
    print(printable(f"edge-agent: {message}"), file=sys.stderr)
    return 1


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Rows as lines of equally wide columns. The first `left` columns stand at the left, numbers at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if number < left else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
