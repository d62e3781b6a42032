"""What the page's process and tab take, and the targets that a rig prints."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import CDPSession

from edge_agent.core.terminal import aligned
from rigs.bench.figures import processor

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    value: str
    limit: str
    holds: bool


def at_most(name: str, value: float, limit: float, unit: str, digits: int = 1) -> Target:
    return Target(name, f"{value:.{digits}f} {unit}", f"at most {limit:g} {unit}", value <= limit)


def none_of(name: str, faults: Sequence[str]) -> Target:
    """A target that holds if there are no faults. The first ones are printed."""
    for fault in faults[:10]:
        print(f"  {name}: {fault}", flush=True)
    return Target(name, str(len(faults)), "0", not faults)


def verdict(targets: Sequence[Target]) -> int:
    """Prints the targets; returns the exit code of a rig."""
    rows = [("ok" if one.holds else "FAIL", one.name, one.value, one.limit) for one in targets]
    print(f"on {processor()}:", *aligned(rows, left=4), sep="\n", flush=True)
    return 0 if targets and all(one.holds for one in targets) else 1


class ProcessMeter:
    """CPU time and memory of one process since the meter was made."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.samples_mib: list[float] = []
        self.restart(0.0)

    def restart(self, now: float) -> None:
        self._began, self._cpu_s = now, self._used_s()

    def share_of_core(self, now: float) -> float:
        return (self._used_s() - self._cpu_s) / (now - self._began)

    def sample(self) -> float:
        """The memory that it holds now, in MiB."""
        self.samples_mib.append(self._process.memory_info().rss / MIB)
        return self.samples_mib[-1]

    def _used_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def heap_mib(session: CDPSession) -> float:
    """What the scripts of a tab hold after a collection of garbage, in MiB."""
    session.send("HeapProfiler.collectGarbage")
    used: Any = session.send("Runtime.getHeapUsage")["usedSize"]
    return float(used) / MIB


def growth(samples: Sequence[float]) -> float:
    """The share by which the median of the last quarter exceeds that of the second, as the first is a warm-up."""
    quarter = max(1, len(samples) // 4)
    before, after = samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]
    return statistics.median(after) / statistics.median(before) - 1


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
