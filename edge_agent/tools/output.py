"""How the tools print progress, faults and tables of aligned columns, and write private files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge_agent.core.wording import printable

UNKNOWN = "–"


class StatusLine:
    """On a terminal one line that is overwritten; elsewhere a line per phase."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._phase: str | None = None

    def say(self, text: str) -> None:
        """text: the phase, or `phase: position in it`."""
        phase, _, _ = text.partition(":")
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif phase != self._phase:
            print(text, file=sys.stderr, flush=True)
        self._phase = phase

    def clear(self) -> None:
        if self._is_terminal:
            self.say("")


def fail(message: str, code: int = 1) -> int:
    """Prints why a command failed; returns its exit code."""
    print(printable(f"edge-agent: {message}"), file=sys.stderr)
    return code


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


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that only its owner can read; it is at `path` whole, once the body ends, or not at all. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.absolute().parent, delete=False) as draft:
        try:
            if (user := os.environ.get("SUDO_UID", "")).isdecimal() and os.geteuid() == 0:
                os.fchown(draft.fileno(), int(user), -1)  # the caller of sudo sends it on
            yield draft
            draft.flush()
            Path(draft.name).replace(path)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise
