"""Memory, swap, whether the kernel can limit a service's memory, and the disk with the models."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board.files import if_there, read_text

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class MemoryReading:
    total_mb: float
    available_mb: float | None
    swap_used_mb: float | None


@dataclass(frozen=True, slots=True)
class DiskReading:
    free_mb: float


@dataclass(frozen=True, slots=True)
class CgroupReading:
    has_memory_controller: bool


class MemoryInfo:
    key = name = "meminfo"

    def __init__(self, root: Path) -> None:
        self._path = root / "proc/meminfo"

    def read(self) -> MemoryReading:
        kib = {name: int(size) for name, size in re.findall(r"(?m)^(\w+): +([0-9]{1,12}) kB$", read_text(self._path))}
        total, available = kib.get("MemTotal"), kib.get("MemAvailable")
        if not total:
            raise ValueError("no MemTotal")
        if available is not None and available > total:
            raise ValueError(f"absurd: {available} kB of {total} kB available")
        swap_total, swap_free = kib.get("SwapTotal"), kib.get("SwapFree")
        is_swap_known = swap_total is not None and swap_free is not None and swap_free <= swap_total
        return MemoryReading(
            total_mb=_mb(total),
            available_mb=None if available is None else _mb(available),
            swap_used_mb=_mb(swap_total - swap_free) if is_swap_known else None,  # type: ignore[operator]
        )


class Disk:
    """Free space at a folder, or at its nearest parent that exists."""

    key = name = "disk"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> DiskReading:
        there = next((path for path in (self._folder, *self._folder.parents) if path.is_dir()), Path("/"))
        return DiskReading(free_mb=round(shutil.disk_usage(there).free / _MB, 1))


class Cgroup:
    """The memory controller, read once. Where it is off, as on Raspberry Pi OS, MemoryMax= of systemd does nothing."""

    key = name = "cgroup"

    def __init__(self, root: Path) -> None:
        self._unified = root / "sys/fs/cgroup/cgroup.controllers"
        self._controllers = root / "proc/cgroups"
        self._found: CgroupReading | None = None

    def read(self) -> CgroupReading | None:
        if self._found is None:
            self._found = self._read()
        return self._found

    def _read(self) -> CgroupReading | None:
        listed = if_there(read_text, self._unified)
        if listed is not None:
            names = listed.split()
            # A container without any controller says nothing about the kernel.
            return CgroupReading("memory" in names) if names else None
        table = if_there(read_text, self._controllers)
        if not table:
            return None
        # subsys_name hierarchy num_cgroups enabled
        return CgroupReading(re.search(r"(?m)^memory\s+\d+\s+\d+\s+1$", table) is not None)


def _mb(kib: int) -> float:
    return round(kib * 1024 / _MB, 1)
