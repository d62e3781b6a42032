"""Memory, swap, and the disk with the models."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board.files import read_text
from edge_agent.board.reading import Memory

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class DiskReading:
    free_mb: float


class MemoryInfo:
    key = name = "meminfo"

    def __init__(self, root: Path) -> None:
        self._path = root / "proc/meminfo"

    def read(self) -> Memory:
        kib = {name: int(size) for name, size in re.findall(r"(?m)^(\w+): +([0-9]{1,12}) kB$", read_text(self._path))}
        if not kib.get("MemTotal"):
            raise ValueError("no MemTotal")
        has_swap = "SwapTotal" in kib and "SwapFree" in kib
        return Memory(
            total_mb=_mb(kib["MemTotal"]),
            available_mb=_mb(kib["MemAvailable"]) if "MemAvailable" in kib else None,
            swap_used_mb=_mb(kib["SwapTotal"] - kib["SwapFree"]) if has_swap else None,
        )


class Disk:
    """Free space at a folder, or at its nearest parent that exists."""

    key = name = "disk"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> DiskReading:
        there = next((path for path in (self._folder, *self._folder.parents) if path.is_dir()), Path("/"))
        return DiskReading(free_mb=round(shutil.disk_usage(there).free / _MB, 1))


def has_memory_controller(root: Path) -> bool | None:
    """Whether the kernel can limit a service's memory; None = it does not say.

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


def _mb(kib: int) -> float:
    return round(kib * 1024 / _MB, 1)
