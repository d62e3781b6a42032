"""What /proc tells of processes: the memory that only they hold, and how busy the machine was with others."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_FIELD = re.compile(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", re.MULTILINE)


def anonymous_mb(pid: int) -> float:
    """MiB of RssAnon and VmSwap of a process and its descendants. Raises psutil.NoSuchProcess, OSError."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(map(_own_mb, family))


def _own_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
    return sum(int(kilobytes) for kilobytes in _FIELD.findall(status)) / 1024


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of CPU time, of the whole machine and of this process with its descendants; `at` in wall seconds."""

    machine_s: float
    own_s: float
    at: float

    @classmethod
    def now(cls) -> CpuTimes:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        own = (process.cpu_times() for process in family if process.status() != psutil.STATUS_ZOMBIE)
        return cls(busy, sum(mine.user + mine.system for mine in own), time.monotonic())

    def others_since(self, before: CpuTimes) -> float:
        """CPUs that others kept busy since then, on average."""
        machine, own = self.machine_s - before.machine_s, self.own_s - before.own_s
        return max(0.0, (machine - own) / (self.at - before.at))
