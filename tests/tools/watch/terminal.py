"""A program in a terminal: what it draws, as an emulator shows it, and keys for it."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import Any, Self

import pyte

from tests.helpers.processes import WAIT_S


class Terminal:
    """`edge-agent ARGUMENTS` in a pseudo terminal of so many columns and lines."""

    def __init__(self, arguments: list[str], columns: int = 80, lines: int = 24, **environment: str) -> None:
        self._master, self._slave = pty.openpty()
        self._resize(columns, lines)
        self.settings: Any = termios.tcgetattr(self._slave)
        self.written = b""
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        ours = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_agent", *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**ours, "TERM": "xterm-256color", **environment},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return
            with self._lock:
                self.written += data
                self._stream.feed(data)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        with self._lock:
            self._screen.resize(lines, columns)
            self._resize(columns, lines)

    @property
    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, is_wanted: Any, what: str) -> list[str]:
        """The screen when this is first true of its lines; fails by name if it never is."""
        give_up_at = time.monotonic() + WAIT_S
        while time.monotonic() < give_up_at:
            lines = self.lines
            if is_wanted(lines):
                return lines
            time.sleep(0.05)
        screen = "\n".join(self.lines)
        raise AssertionError(f"{what}: not within {WAIT_S} s; the screen is\n{screen}")

    @property
    def settings_now(self) -> Any:
        return termios.tcgetattr(self._slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        os.close(self._slave)
        self._reader.join(WAIT_S)
        os.close(self._master)
