"""Keys of a terminal, one at a time and without an echo."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SEQUENCES = {
    "\x1b[A": "up", "\x1bOA": "up", "k": "up",
    "\x1b[B": "down", "\x1bOB": "down", "j": "down",
    "\x1b[5~": "page up", "\x1b[6~": "page down", " ": "page down",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "g": "home",
    "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end", "G": "end",
    "s": "sort", "q": "quit", "Q": "quit", "\x04": "quit",
}  # fmt: skip
_KEY = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO.|.", re.DOTALL)


class Keyboard:
    """Standard input, if it is a terminal; else a keyboard that nobody touches."""

    def __init__(self) -> None:
        self._is_open = sys.stdin is not None and sys.stdin.isatty()

    @contextmanager
    def without_echo(self) -> Iterator[None]:
        if not self._is_open:
            yield
            return
        before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        try:
            yield
        finally:
            with suppress(termios.error):  # the terminal may be gone
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)

    def wait(self, timeout_s: float) -> list[str]:
        """The names of the keys that were pressed, after the first one or the time."""
        ready, _, _ = select.select([sys.stdin] if self._is_open else [], [], [], timeout_s)
        if not ready:
            return []
        text = os.read(sys.stdin.fileno(), 1024).decode("utf-8", "replace")
        self._is_open = bool(text)
        return keys_of(text)


def keys_of(text: str) -> list[str]:
    """What a terminal sent, as names of keys; those that mean nothing here are left out."""
    return [_SEQUENCES[key] for key in _KEY.findall(text) if key in _SEQUENCES]
