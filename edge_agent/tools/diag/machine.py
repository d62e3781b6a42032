"""What the machine is and how it does: versions, identity, memory, disk, limits of the service."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.files import reason
from edge_agent.board.identity import cores, machine
from edge_agent.core.clock import timestamp
from edge_agent.tools.diag.files import head
from edge_agent.tools.diag.part import Part

_PACKAGES = ("llama-cpp-python", "numpy", "paho-mqtt", "psutil", "pydantic", "jinja2", "jsonschema", "cryptography")
_FACTS = (
    *("proc/meminfo", "proc/swaps", "proc/loadavg", "proc/uptime", "proc/cmdline", "proc/vmstat", "proc/cgroups"),
    *("proc/pressure/memory", "proc/pressure/cpu", "proc/pressure/io"),
    *("sys/fs/cgroup/cgroup.controllers", "sys/fs/cgroup/system.slice/cgroup.subtree_control"),
)
_GOVERNORS = "sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
_SERVICE = "sys/fs/cgroup/system.slice/edge-agent.service"
_LIMITS = ("memory.current", "memory.max", "memory.high", "memory.swap.max", "memory.events", "memory.peak")
_MORE_LIMITS = ("pids.current", "pids.max", "cpu.stat", "cpu.max")
_MOST_BYTES = 20_000


def versions(part: Part, board: Board) -> None:
    """Of all that takes part in an answer, and what board it is."""
    document: dict[str, Any] = {
        "edge-agent": __version__,
        "python": sys.version,
        "executable": sys.executable,
        "packages": {name: _version(name) for name in _PACKAGES},
        "kernel": f"{platform.system()} {platform.release()} {platform.version()}",
        "libc": " ".join(platform.libc_ver()),
        "os": _os(),
        "machine": machine(),
        "board": board.model(),
        "cores": cores(),
        "cpu_features": board.cpu_features(),
        "clock": timestamp(),
        "clock_as_told": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "account": os.geteuid(),
    }
    part.document("versions.json", document)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _os() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def resources(part: Part, root: Path, folders: Iterable[Path]) -> None:
    """Memory, disks, limits. root: as in [board]; folders: on the disks that count."""
    texts: dict[str, str] = {}
    paths = [*_FACTS, *(f"{_SERVICE}/{name}" for name in (*_LIMITS, *_MORE_LIMITS))]
    paths += sorted(str(path.relative_to(root)) for path in root.glob(_GOVERNORS))
    for name in paths:
        try:
            texts[name] = head(root / name, _MOST_BYTES)
        except OSError as error:
            # That a file is absent tells something too, and needs no excuse.
            if not isinstance(error, FileNotFoundError):
                part.misses(f"/{name}: {reason(error)}")
    part.text("resources.txt", "\n".join(f"== {name}\n{text}\n" for name, text in texts.items()))
    part.document("disks.json", {str(folder): _disk(folder) for folder in folders})


def _disk(folder: Path) -> dict[str, Any]:
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    try:
        usage, nodes = shutil.disk_usage(there), os.statvfs(there)
    except OSError as error:
        return {"fault": reason(error)}
    return {
        "of": str(there),
        "total_bytes": usage.total,
        "free_bytes": usage.free,
        "inodes": nodes.f_files,
        "inodes_free": nodes.f_favail,
        "is_read_only": bool(nodes.f_flag & os.ST_RDONLY),
        "is_writable": os.access(folder, os.W_OK),
    }
