"""Memory of single processes of this machine, and whether the kernel ended any for want of it."""

from __future__ import annotations

import re
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
    """Resident memory by what is behind it: nothing, or a file whose pages the kernel may drop and read again.

    swapped_mib: what is behind the swap. data_mib: all that the process may write to and shares with nobody, whether
    it has touched it or not.
    """

    anonymous_mib: float
    file_mib: float
    swapped_mib: float
    data_mib: float


def process_memory(pid: int) -> ProcessMemory | None:
    """None once it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    mib = {name: round(int(kib) / 1024, 1) for name, kib in re.findall(r"(?m)^(\w+):\s+(\d+) kB$", text)}
    # A kernel without swap tells of none; a zombie tells nothing.
    mib.setdefault("VmSwap", 0.0)
    try:
        return ProcessMemory(
            anonymous_mib=mib["RssAnon"], file_mib=mib["RssFile"], swapped_mib=mib["VmSwap"], data_mib=mib["VmData"]
        )
    except KeyError:
        return None


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes the kernel has ended for want of memory: of this one's control group, where that is counted,
    else of the whole machine. None = it does not tell."""
    group = re.search(r"(?m)^0::(/.*)$", _text(root / "proc/self/cgroup"))
    events = _text(root / f"sys/fs/cgroup{group[1]}/memory.events") if group else ""
    for text in (events, _text(root / "proc/vmstat")):
        if found := re.search(r"(?m)^oom_kill (\d+)$", text):
            return int(found[1])
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
