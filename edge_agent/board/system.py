"""Load and frequency of the cores, memory, swap, and the disk with the models.

psutil reads what it can read below a moved /proc. Its load average and its frequencies are always those of this
machine, and its highest frequency is the one that is allowed now, which heat lowers. So both are read here.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_agent.board.files import entries, read_text, read_within
from edge_agent.board.reading import Cpu, Memory

_MB = 1_000_000
_MIN_KHZ, _MAX_KHZ = 10_000, 20_000_000
_LOAD = re.compile(r"([0-9]{1,6}\.[0-9]+) [0-9.]+ [0-9.]+ [0-9]+/[0-9]+")


def read_below(root: Path) -> None:
    """Makes psutil read the /proc below `root`, in the whole program."""
    psutil.PROCFS_PATH = str(root / "proc")


def read_load(root: Path) -> Cpu:
    text = read_text(root / "proc/loadavg")
    match = _LOAD.match(text)
    if match is None:
        raise ValueError(f"not a load average: {text[:40]!r}")
    return Cpu(load1=float(match[1]))


class BusyTime:
    """The share of time since the last reading in which the cores did not idle."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def read(self) -> Cpu | None:
        last, self._last = self._last, None
        times = psutil.cpu_times()
        # user nice system idle iowait irq softirq steal; guest time is in user time.
        idle, total = times.idle + times.iowait, sum(times[:8])
        self._last = idle, total
        if last is None or total <= last[1]:
            return None
        return Cpu(percent=round(min(100.0, max(0.0, 100 * (1 - (idle - last[0]) / (total - last[1])))), 1))


def read_frequency(root: Path) -> Cpu | None:
    """The frequency of the fastest cores. A board has one policy for each kind of core."""
    folder = root / "sys/devices/system/cpu/cpufreq"
    policies = [folder / name for name in entries(folder) if re.fullmatch(r"policy\d+", name)]
    if not policies:
        return None
    fastest = [(_khz(policy / "cpuinfo_max_freq"), policy) for policy in policies]
    max_khz, policy = max(fastest, key=lambda pair: pair[0])
    return Cpu(freq_mhz=_khz(policy / "scaling_cur_freq") / 1000, freq_max_mhz=max_khz / 1000)


def _khz(path: Path) -> int:
    return read_within(path, _MIN_KHZ, _MAX_KHZ)


@dataclass(frozen=True, slots=True)
class DiskReading:
    free_mb: float


def read_memory() -> Memory:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    if not memory.total:
        raise ValueError("no MemTotal")
    return Memory(total_mb=_mb(memory.total), available_mb=_mb(memory.available), swap_used_mb=_mb(swap.used))


def read_disk(folder: Path) -> DiskReading:
    """Free space at a folder, or at its nearest parent that exists."""
    existing_folder = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
    return DiskReading(free_mb=_mb(psutil.disk_usage(str(existing_folder)).free))


def has_memory_controller(root: Path) -> bool | None:
    """Whether the kernel can limit a service's memory; None if it does not say.

    Where it cannot, as on Raspberry Pi OS, MemoryMax= of systemd does nothing.
    """
    unified, table = root / "sys/fs/cgroup/cgroup.controllers", root / "proc/cgroups"
    try:
        if unified.exists():
            # A container without any controller says nothing about the kernel.
            names = read_text(unified).split()
            return "memory" in names if names else None
        # subsys_name hierarchy num_cgroups enabled
        return re.search(r"(?m)^memory\s+\d+\s+\d+\s+1$", read_text(table)) is not None
    except OSError:
        return None


def _mb(size: int) -> float:
    return round(size / _MB, 1)
