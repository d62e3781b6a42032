"""Memory of single processes of this machine, and how often the kernel killed one for lack of memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_KIB_PER_MB = 1_000_000 / 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Resident memory: anonymous, or of a file whose pages the kernel may drop and read again.

    data_mib: all private memory that the process may write to, whether it has touched it or not.
    """

    anonymous_mib: float
    file_mib: float
    swapped_mib: float
    data_mib: float


def resident_mb(pid: int | None = None) -> float | None:
    """Resident memory of a process (default: this one) in MB; None once it is gone."""
    kib = _status_kib(pid).get("VmRSS")
    return None if kib is None else round(kib / _KIB_PER_MB, 1)


def process_memory(pid: int) -> ProcessMemory | None:
    """None once the process is gone."""
    mib = {name: round(kib / 1024, 1) for name, kib in _status_kib(pid).items()}
    try:
        return ProcessMemory(
            anonymous_mib=mib["RssAnon"],
            file_mib=mib["RssFile"],
            swapped_mib=mib.get("VmSwap", 0.0),  # a kernel without swap has no such line
            data_mib=mib["VmData"],
        )
    except KeyError:
        return None


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes the kernel killed for lack of memory: in this control group if it counts, else in the system.

    None = the kernel does not report it.
    """
    group = re.search(r"(?m)^0::(/.*)$", _text(root / "proc/self/cgroup"))
    events = _text(root / f"sys/fs/cgroup{group[1]}/memory.events") if group else ""
    for text in (events, _text(root / "proc/vmstat")):
        if found := re.search(r"(?m)^oom_kill (\d+)$", text):
            return int(found[1])
    return None


def _status_kib(pid: int | None) -> dict[str, int]:
    """Empty once the process is gone; a zombie has no memory either."""
    text = _text(Path(f"/proc/{'self' if pid is None else pid}/status"))
    return {name: int(kib) for name, kib in re.findall(r"(?m)^(\w+):\s+(\d+) kB$", text)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
