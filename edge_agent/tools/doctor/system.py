"""Checks of the board and its system: sensors, memory limit, time, disk."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent.board.board import Board
from edge_agent.board.reading import BoardReading, ThrottleCause
from edge_agent.board.system import has_memory_controller
from edge_agent.core.clock import timestamp
from edge_agent.core.environment import cores
from edge_agent.tools.doctor.check import Check, good, skipped, warning
from edge_agent.tools.programs import ProgramError, program_output

MIN_DISK_FREE_MB = 500.0
# Feature of the cores -> the word in llama.cpp's system info when the library uses it.
KERNEL_FEATURES = {
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
    "avx2": "AVX2",
    "avx512_vnni": "AVX512_VNNI",
}
_DENIED = {os.strerror(errno.EACCES), os.strerror(errno.EPERM)}


def identity(board: Board) -> Check:
    features = [name for name in KERNEL_FEATURES if name in board.cpu_features()]
    kernels = ", ".join(features) or "no feature that fast kernels use"
    return good("board", f"{board.model() or platform.machine()}, cores: {cores()}, {kernels}")


def sensors(reading: BoardReading) -> Check:
    """The readings that there are. A sensor that is only switched off is listed without a warning."""
    thermal, power = reading.thermal, reading.power
    is_blind = reading.throttle.now is None
    limit = "no known limit" if thermal.limit_c is None else f"a limit of {thermal.limit_c:g} °C"
    found = [
        "no temperature" if thermal.soc_c is None else f"SoC {thermal.soc_c:.1f} °C with {limit}",
        "nothing reports throttling" if is_blind else "throttled" if reading.throttle.now else "not throttled",
        "power not measured" if power.watts is None else f"{power.watts:.1f} W ({power.scope}) by {power.source}",
    ]
    if reading.errors:
        found.append(f"not read: {', '.join(f'{name} ({why})' for name, why in reading.errors.items())}")
    if advice := list(_sensor_advice(reading)):
        return warning("sensors", "; ".join(found), "; ".join(advice))
    return (skipped if thermal.soc_c is None and is_blind else good)("sensors", "; ".join(found))


def _sensor_advice(reading: BoardReading) -> Iterator[str]:
    if denied := sorted(name for name, why in reading.errors.items() if why in _DENIED):
        yield (
            f"{', '.join(denied)}: this account may not read them, ask as root; a Raspberry Pi's firmware answers the "
            "group video, too (the unit has it: SupplementaryGroups=video)"
        )
    if broken := sorted(reading.errors.keys() - reading.unavailable - {*denied}):
        yield f"{', '.join(broken)}: the kernel's log (dmesg) may say why; the agent works without them"
    if reading.throttle.now and ThrottleCause.THERMAL in reading.throttle.causes:
        yield "the board is throttled because it is hot: use a fan, a larger heat sink or a lower clock (arm_freq=)"
    if reading.throttle.undervoltage_since_boot:
        yield "the supply voltage was too low since the last boot: use a stronger supply and a shorter cable"


def memory_limit(root: Path) -> Check:
    """Whether systemd can limit the agent's memory. root: where /sys and /proc lie."""
    has_controller = has_memory_controller(root)
    if has_controller is None:
        return skipped("memory limit", "the kernel does not say")
    if has_controller:
        return good("memory limit", "the kernel can set one")
    return warning(
        "memory limit",
        "the kernel can set none: its memory cgroup is off",
        "add cgroup_enable=memory to the kernel's command line and reboot (Raspberry Pi: to the one line of "
        "/boot/firmware/cmdline.txt); until then MemoryMax= and MemoryHigh= do nothing",
    )


def is_clock_synchronized() -> bool | None:
    """Whether the clock follows a server; None = unknown."""
    try:
        word = program_output(("timedatectl", "show", "--property", "NTPSynchronized", "--value"), 3.0).strip()
    except ProgramError:
        return None
    return {"yes": True, "no": False}.get(word)


def clock(is_synchronized: bool | None) -> Check:  # noqa: FBT001
    now = timestamp()
    if now is None or is_synchronized is False:
        found = f"{now}, but it follows no server" if now else f"not set ({time.strftime('%Y-%m-%d', time.gmtime())})"
        return warning(
            "clock",
            found,
            "while it is wrong, times are null or wrong, and TLS and signed commands fail; enable systemd-timesyncd "
            "with a server that this network reaches",
        )
    return good("clock", f"{now}, {'synchronized' if is_synchronized else 'whether it follows a server is unknown'}")


def disk(models_dir: Path, reading: BoardReading) -> Check:
    if reading.disk_free_mb is None:
        why = reading.errors.get("disk", "not reported")
        return warning(
            "disk", f"unknown how much is free at {models_dir}: {why}", "check the disk of models_dir and its mount"
        )
    # Path.is_dir raises where a folder above may not be entered.
    is_there = os.access(models_dir, os.F_OK)
    place = models_dir if is_there else f"the disk where {models_dir} would be: there is no such folder"
    found = f"{reading.disk_free_mb:.0f} MB free at {place}"
    if reading.disk_free_mb < MIN_DISK_FREE_MB:
        return warning("disk", found, f"free at least {MIN_DISK_FREE_MB:.0f} MB")
    return good("disk", found)
