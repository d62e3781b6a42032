"""Memory of single processes of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

_MB = 1_000_000


def resident_mb(pid: int | None = None) -> float | None:
    """Resident memory of a process (default: this one) in MB; None once it is gone."""
    try:
        return round(psutil.Process(pid).memory_info().rss / _MB, 1)
    except psutil.Error:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Resident memory by what is behind it: nothing, or a file whose pages the kernel may drop and read again."""

    anonymous_mib: float
    file_mib: float


def process_memory(pid: int) -> ProcessMemory | None:
    """None once it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    kib = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in text.splitlines())
        if name in ("RssAnon", "RssFile")
    }
    if len(kib) < 2:
        return None
    return ProcessMemory(anonymous_mib=round(kib["RssAnon"] / 1024, 1), file_mib=round(kib["RssFile"] / 1024, 1))
