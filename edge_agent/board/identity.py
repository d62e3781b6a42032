"""What a board is: its name, its cores and their features."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edge_agent.board.files import read_bytes, read_text

_MAX_MODEL = 100


def model(root: Path) -> str | None:
    """The name from the device tree; None on machines without one."""
    try:
        return read_text(root / "proc/device-tree/model")[:_MAX_MODEL] or None
    except OSError:
        return None


def is_raspberry_pi(root: Path) -> bool:
    """Also for a compute module in another maker's board, whose model does not name it."""
    try:
        compatible = read_bytes(root / "proc/device-tree/compatible").split(b"\0")
    except OSError:
        compatible = []
    return (model(root) or "").startswith("Raspberry Pi") or any(
        name.startswith(b"raspberrypi,") for name in compatible
    )


def cpu_features(root: Path) -> list[str]:
    """The flags of the first core in /proc/cpuinfo, sorted."""
    try:
        text = read_text(root / "proc/cpuinfo")
    except OSError:
        return []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return sorted(value.split())
    return []


def machine() -> str:
    """The instruction set, as uname names it: aarch64, x86_64, …"""
    return platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
