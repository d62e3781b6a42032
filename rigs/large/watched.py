"""A conversion in a process of its own: its stages, what it predicted of them, and its memory."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rigs.machine import ROOT, held_mib

_PROGRESS = re.compile(r" *(\d+) %  (.+?)(?:, \d+:\d+ min, about (\d+):(\d+) min left)?$")
SAMPLE_S = 0.2


@dataclass(slots=True)
class Stage:
    """name: its last line. Seconds of the run: when it began, when it was last seen, and at each share in % when it was
    to end."""

    name: str
    began: float
    seen: float
    share: int = 0
    ends: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Watched:
    """What a conversion did. held_mib: the most memory of its processes at once, without pages of files."""

    seconds: float = 0.0
    exit_code: int | None = None
    held_mib: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def watch_conversion(
    words: Sequence[str], *, memory: int, kill_at: tuple[str, int] | None = None, most_s: float = float("inf")
) -> Watched:
    """Runs `edge-convert` with these words on a terminal, and reads its progress.

    memory: the bytes of writable memory that a process may have (RLIMIT_DATA). kill_at: SIGKILL at the n-th different
    line that begins so. most_s: SIGTERM after as many seconds.
    """
    terminal, its_end = pty.openpty()
    found, began, seen = Watched(), time.monotonic(), set[str]()
    process = subprocess.Popen(
        ["prlimit", f"--data={memory}", sys.executable, "-m", "convert", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=its_end,
    )
    os.close(its_end)
    for line in _lines(terminal):
        now = time.monotonic() - began
        found.held_mib = max(found.held_mib, held_mib(process.pid))
        share, what = _take(line, now, found)
        if kill_at is not None and what.startswith(kill_at[0]):
            seen.add(f"{share} {what}")
            if len(seen) == kill_at[1]:
                process.kill()
        if now > most_s:
            process.send_signal(signal.SIGTERM)
            most_s = float("inf")
    found.exit_code, found.seconds = process.wait(), time.monotonic() - began
    return found


def _lines(terminal: int) -> Iterator[str]:
    """Each line that is drawn there, and "" after each SAMPLE_S, until the last process has closed it."""
    rest = ""
    while True:
        if not select.select([terminal], [], [], SAMPLE_S)[0]:
            yield ""
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:
            os.close(terminal)
            yield rest
            return
        *lines, rest = re.split(r"\r\x1b\[K|\r?\n", rest + data.decode(errors="replace"))
        # A line of progress is complete, and ends only with the next one.
        if _PROGRESS.match(rest):
            lines.append(rest)
            rest = ""
        yield from lines


def _take(line: str, now: float, found: Watched) -> tuple[int, str]:
    """The share of the stage in %, and what is being done."""
    if (match := _PROGRESS.match(line)) is None:
        found.said += [line] if line else []
        return 0, ""
    share, what, minutes, seconds = match.groups()
    if not found.stages or int(share) < found.stages[-1].share:
        found.stages.append(Stage(what, now, now))
    stage = found.stages[-1]
    stage.name, stage.share, stage.seen = what, int(share), now
    if minutes is not None:
        stage.ends.setdefault(int(share), now + 60 * int(minutes) + int(seconds))
    return int(share), what
