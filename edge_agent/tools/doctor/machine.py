"""What of the system makes the agent slow or wrong: a 32-bit userland, a fixed clock rate, swap, limits, time."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent.board.files import reason
from edge_agent.core.clock import timestamp
from edge_agent.tools.doctor.check import Check, Verdict
from edge_agent.tools.programs import ProgramError, run

# The agent has some ten files and sockets open; SQLite, the broker's connections and the worker's pipes among them.
MIN_FILES = 128
_CARD_MAJOR = 179
_SLOW_GOVERNORS = {"powersave", "userspace"}
# Drivers whose powersave is no lowest frequency but the hardware's own choice.
_SELF_GOVERNED = {"intel_pstate", "amd-pstate-epp", "intel_cpufreq"}


def machine_checks(root: Path) -> Iterator[Check]:
    """root: where /sys and /proc are read."""
    if sys.maxsize < 1 << 32:
        yield Check(
            name="userland",
            verdict=Verdict.FAILED,
            found="this Python is a 32-bit program",
            advice="install a 64-bit system: the fast kernels and models above 2 GB need one",
        )
    yield cpu_clock(root)
    yield swap(root)
    yield limits()
    yield clock(is_synchronized() if root == Path("/") else None)


def cpu_clock(root: Path) -> Check:
    """Whether the cores may run as fast as they can."""
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    slow, capped, names = [], [], set()
    for policy in policies:
        governor, driver = _word(policy / "scaling_governor"), _word(policy / "scaling_driver")
        names.add(governor or "unknown")
        if governor in _SLOW_GOVERNORS and driver not in _SELF_GOVERNED:
            slow.append(f"{policy.name} {governor}")
        allowed, possible = _word(policy / "scaling_max_freq"), _word(policy / "cpuinfo_max_freq")
        if (allowed or "").isdecimal() and (possible or "").isdecimal() and int(allowed or 0) < int(possible or 0):
            capped.append(f"{policy.name} {int(allowed or 0) // 1000} of {int(possible or 0) // 1000} MHz")
    if not policies or names == {"unknown"}:
        return Check(name="cpu clock", verdict=Verdict.SKIPPED, found="the kernel tells of no frequency governor")
    found = f"governor {', '.join(sorted(names))}"
    if slow:
        return Check(
            name="cpu clock",
            verdict=Verdict.WARNING,
            found=f"{found}: {', '.join(slow)} keeps the cores slow",
            advice="use ondemand, schedutil or performance: write it to scaling_governor of each policy, at each boot",
        )
    capped_too = f"; capped: {', '.join(capped)}" if capped else ""
    return Check(name="cpu clock", verdict=Verdict.GOOD, found=found + capped_too)


def swap(root: Path) -> Check:
    """Swapping to a memory card answers nobody in time and wears the card out."""
    try:
        lines = (root / "proc/swaps").read_text(encoding="utf-8").splitlines()[1:]
    except OSError as error:
        return Check(name="swap", verdict=Verdict.SKIPPED, found=f"/proc/swaps: {reason(error)}")
    names = [line.split()[0] for line in lines if line.strip()]
    on_card = [name for name in names if _is_on_card(name)]
    if on_card:
        return Check(
            name="swap",
            verdict=Verdict.WARNING,
            found=f"the system swaps to a memory card: {', '.join(on_card)}",
            advice="turn it off (Raspberry Pi OS: systemctl disable --now dphys-swapfile) or use zram; the unit keeps "
            "the service itself out of it (MemorySwapMax=0)",
        )
    return Check(name="swap", verdict=Verdict.GOOD, found=", ".join(names) or "none")


def _is_on_card(name: str) -> bool:
    if name.startswith("/dev/"):
        return name.startswith("/dev/mmcblk")
    try:
        return os.major(Path(name).stat().st_dev) == _CARD_MAJOR
    except OSError:
        return False


def limits() -> Check:
    """Of this account; the service's are the unit's."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory, _ = resource.getrlimit(resource.RLIMIT_AS)
    faults = []
    if files != resource.RLIM_INFINITY and files < MIN_FILES:
        faults.append(f"{files} open files (ulimit -n), {MIN_FILES} are needed")
    if memory != resource.RLIM_INFINITY:
        faults.append(f"{memory / 1e6:.0f} MB of address space (ulimit -v): a model is mapped into it whole")
    if faults:
        return Check(
            name="limits",
            verdict=Verdict.WARNING,
            found=f"this account is limited to {'; '.join(faults)}",
            advice="raise them in this shell, or in /etc/security/limits.d; the service has limits of its own",
        )
    return Check(name="limits", verdict=Verdict.GOOD, found="enough files, no limit of address space")


def is_synchronized() -> bool | None:
    """Whether the clock follows a server; None = nobody tells."""
    try:
        word = run(("timedatectl", "show", "--property", "NTPSynchronized", "--value"), 3.0).strip()
    except ProgramError:
        return None
    return {"yes": True, "no": False}.get(word)


def clock(is_synchronized: bool | None) -> Check:  # noqa: FBT001
    now = timestamp()
    advice = "enable systemd-timesyncd with a server that this network reaches"
    if now is None:
        return Check(
            name="clock",
            verdict=Verdict.WARNING,
            found=f"not set ({time.strftime('%Y-%m-%d', time.gmtime())})",
            advice=f"times are null until it is, TLS and signed commands fail; {advice}",
        )
    if is_synchronized is False:
        return Check(
            name="clock",
            verdict=Verdict.WARNING,
            found=f"{now}, but it follows no server",
            advice="without a clock battery it is wrong after each loss of power: TLS and signed commands fail then; "
            f"{advice}",
        )
    return Check(name="clock", verdict=Verdict.GOOD, found=now + (", synchronized" if is_synchronized else ""))


def _word(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
