"""Load and frequency of the cores."""

from __future__ import annotations

import re
from pathlib import Path

from edge_agent.board.files import entries, read_text, read_within
from edge_agent.board.reading import Cpu

_MIN_KHZ, _MAX_KHZ = 10_000, 20_000_000
_LOAD = re.compile(r"([0-9]{1,6}\.[0-9]+) [0-9.]+ [0-9.]+ [0-9]+/[0-9]+")


class CpuLoad:
    key = name = "loadavg"

    def __init__(self, root: Path) -> None:
        self._path = root / "proc/loadavg"

    def read(self) -> Cpu:
        text = read_text(self._path)
        match = _LOAD.match(text)
        if match is None:
            raise ValueError(f"not a load average: {text[:40]!r}")
        return Cpu(load1=float(match[1]))


class Busy:
    """The share of time since the last reading in which the cores did not idle."""

    key = name = "cpu"

    def __init__(self, root: Path) -> None:
        self._path = root / "proc/stat"
        self._last: tuple[int, int] | None = None

    def read(self) -> Cpu | None:
        last, self._last = self._last, None
        first, *rest = read_text(self._path).partition("\n")[0].split()
        # user nice system idle iowait irq softirq steal; guest time is in user time.
        times = [int(time) for time in rest[:8]]
        if first != "cpu" or len(times) < 4:
            raise ValueError("no line `cpu` with times")
        idle, total = sum(times[3:5]), sum(times)
        self._last = idle, total
        if last is None or total <= last[1]:
            return None
        return Cpu(percent=round(min(100.0, max(0.0, 100 * (1 - (idle - last[0]) / (total - last[1])))), 1))


class Frequency:
    """The frequency of the fastest cores: a board has one policy for each kind of core."""

    key = name = "cpufreq"

    def __init__(self, root: Path) -> None:
        self._folder = root / "sys/devices/system/cpu/cpufreq"

    def read(self) -> Cpu | None:
        policies = [self._folder / name for name in entries(self._folder) if re.fullmatch(r"policy\d+", name)]
        if not policies:
            return None
        fastest = [(_khz(policy / "cpuinfo_max_freq"), policy) for policy in policies]
        max_khz, policy = max(fastest, key=lambda pair: pair[0])
        return Cpu(freq_mhz=_khz(policy / "scaling_cur_freq") / 1000, freq_max_mhz=max_khz / 1000)


def _khz(path: Path) -> int:
    return read_within(path, _MIN_KHZ, _MAX_KHZ)
