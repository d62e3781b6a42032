"""What is printed for people: faults, tables of aligned columns, shares, and progress on a line that is overwritten."""

import sys
from collections.abc import Sequence

from edge_agent.core.wording import printable

UNKNOWN = "–"


def percent(share: float | None, digits: str = ".1f") -> str:
    """A share from 0 to 1 in per cent; a dash where it is unknown."""
    return UNKNOWN if share is None else f"{100 * share:{digits}} %"


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Rows as lines of equally wide columns. The first `left` columns are left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if number < left else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def fail(message: str, code: int = 1) -> int:
    """Prints why a command failed; returns its exit code."""
    print(printable(f"edge-agent: {message}"), file=sys.stderr)
    return code


class StatusLine:
    """On a terminal one line that is overwritten; elsewhere a line per phase."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._phase: str | None = None

    def say(self, text: str) -> None:
        """Shows the phase, or `phase: position in it`."""
        phase, _, _ = text.partition(":")
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif phase != self._phase:
            print(text, file=sys.stderr, flush=True)
        self._phase = phase

    def clear(self) -> None:
        if self._is_terminal:
            self.say("")
