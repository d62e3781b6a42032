"""How the tools print why they fail, and write files that are their user's alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge_agent.core.files import replaced_file
from edge_agent.core.wording import printable


def fail(message: str, code: int = 1) -> int:
    """Prints why a command failed; returns its exit code."""
    print(printable(f"edge-agent: {message}"), file=sys.stderr)
    return code


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that only its owner can read; it is at `path` whole, once the body ends, or not at all. Raises OSError."""
    with replaced_file(path, mode=0o600) as draft:
        if (user := os.environ.get("SUDO_UID", "")).isdecimal() and os.geteuid() == 0:
            os.fchown(draft.fileno(), int(user), -1)  # the caller of sudo sends it on
        yield draft
