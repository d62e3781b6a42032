"""Checks of the board and its system: its sensors, memory limit, time and disk, and the service's account's rights."""

import errno
import os
import platform
import pwd
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edge_agent.board.board import Board
from edge_agent.board.reading import BoardReading, ThrottleCause
from edge_agent.board.system import has_memory_controller
from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.core.environment import cores
from edge_agent.core.pipe import is_echo
from edge_agent.models.trust import signature_of
from edge_agent.store.database import FILE
from edge_agent.tools.doctor.check import Check, failed, good, skipped, warning
from edge_agent.tools.programs import ProgramError, program_output

SERVICE_ACCOUNT = "edge-agent"
# For requests and decoded prefixes.
MIN_STATE_FREE_MB = 200.0
MIN_DISK_FREE_MB = 500.0
# By feature of the cores, the word in llama.cpp's system info when the library uses it.
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
        "throttling not reported" if is_blind else "throttled" if reading.throttle.now else "not throttled",
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
            f"{', '.join(denied)}: this account may not read them: run doctor as root; a Raspberry Pi's firmware also "
            "answers the group video (the unit has it: SupplementaryGroups=video)"
        )
    if broken := sorted(reading.errors.keys() - reading.unavailable - {*denied}):
        yield f"{', '.join(broken)}: the kernel's log (dmesg) may say why; the agent works without them"
    if reading.throttle.now and ThrottleCause.THERMAL in reading.throttle.causes:
        yield "the board is throttled because it is hot: use a fan, a larger heat sink or a lower clock (arm_freq=)"
    if reading.throttle.undervoltage_since_boot:
        yield "the supply voltage was too low since the last boot: use a stronger supply and a shorter cable"


def memory_limit(root: Path) -> Check:
    """Whether systemd can limit the agent's memory, by the /sys and /proc below the root."""
    has_controller = has_memory_controller(root)
    if has_controller is None:
        return skipped("memory limit", "unknown: the kernel does not say")
    if has_controller:
        return good("memory limit", "the kernel can set one")
    return warning(
        "memory limit",
        "the kernel cannot set one because its memory cgroup is off",
        "add cgroup_enable=memory to the kernel's command line and reboot (Raspberry Pi: to the one line of "
        "/boot/firmware/cmdline.txt); until then MemoryMax= and MemoryHigh= do nothing",
    )


def is_clock_synchronized() -> bool | None:
    """Whether the clock follows a server; None if unknown."""
    try:
        word = program_output(("timedatectl", "show", "--property", "NTPSynchronized", "--value"), 3.0).strip()
    except ProgramError:
        return None
    return {"yes": True, "no": False}.get(word)


def clock(is_synchronized: bool | None) -> Check:  # noqa: FBT001
    now = timestamp()
    if now is None or is_synchronized is False:
        unset = f"not set ({time.strftime('%Y-%m-%d', time.gmtime())})"
        found = f"{now}, not synchronized with a server" if now else unset
        return warning(
            "clock",
            found,
            "while it is wrong, times are null or wrong, and TLS and signed commands fail; enable systemd-timesyncd "
            "with a server that this network can reach",
        )
    return good("clock", f"{now}, {'synchronized' if is_synchronized else 'whether it is synchronized is unknown'}")


def disk(models_dir: Path, reading: BoardReading) -> Check:
    if reading.disk_free_mb is None:
        why = reading.errors.get("disk", "not reported")
        return warning(
            "disk", f"free space at {models_dir} is unknown: {why}", "check the disk of models_dir and its mount"
        )
    # Path.is_dir raises where a folder above may not be entered.
    is_there = os.access(models_dir, os.F_OK)
    place = models_dir if is_there else f"the disk where {models_dir} would be, because there is no such folder"
    found = f"{reading.disk_free_mb:.0f} MB free at {place}"
    if reading.disk_free_mb < MIN_DISK_FREE_MB:
        return warning("disk", found, f"free at least {MIN_DISK_FREE_MB:.0f} MB")
    return good("disk", found)


def state(folder: Path) -> Check:
    """The folder for requests, measurements and prefixes."""
    path = folder / FILE if os.access(folder / FILE, os.F_OK) else folder
    if not os.access(folder, os.F_OK):
        advice = "the unit creates /var/lib/edge-agent/state and may write only there; otherwise create it yourself"
        return warning("state", f"{folder} does not exist yet", advice)
    if not is_allowed(os.W_OK, path):
        advice = f"change its owner: chown -R {SERVICE_ACCOUNT} {folder}"
        advice += "; an agent may have run here under another account"
        return failed("state", f"{_account_name()} may not write {path}", advice)
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < MIN_STATE_FREE_MB:
        advice = f"free at least {MIN_STATE_FREE_MB:.0f} MB: with a full disk, requests are kept in memory only"
        return warning("state", f"{free_mb:.0f} MB free at {folder}", advice)
    return good("state", f"{_account_name()} can write, {free_mb:.0f} MB free")


def files(config: Config, config_path: Path) -> Check:
    """The configuration, models and certificates. The unit takes care of secrets (LoadCredential=)."""
    tls, model = config.mqtt.tls, config.models["default"]
    keys = model.key_files.values()
    lists = () if model.revocations is None else (model.revocations, signature_of(model.revocations))
    named: dict[str, list[Path | None]] = {
        "configuration": [config_path],
        "models folder": [config.models_dir],
        "model": [],
        "keys": [*keys, *lists],
        "certificates": [tls.ca_file, tls.cert_file] if tls else [],
    }
    if not is_echo(model.path):
        named["model"].append(model.path)
        # A bundle that is missing or cannot be listed is reported by itself.
        with suppress(OSError):
            named["model"] += sorted(model.path.iterdir())[:50]
    # Other checks report files that are missing.
    existing = {name: [path for path in paths if path and os.access(path, os.F_OK)] for name, paths in named.items()}
    if unreadable := [str(path) for paths in existing.values() for path in paths if not is_allowed(os.R_OK, path)]:
        return failed(
            "files",
            f"{_account_name()} may not read {', '.join(unreadable)}",
            "change owner or mode: chmod a+rX for models and certificates, chgrp edge-agent and chmod g+r for the "
            "configuration; the folders above them need x",
        )
    return good("files", f"{_account_name()} can read {', '.join(name for name in existing if existing[name])}")


def _account_name() -> str:
    return SERVICE_ACCOUNT if service_account() else "this account"


def service_account() -> pwd.struct_passwd | None:
    """The service's account if this process is root's and the account exists; None otherwise."""
    try:
        return pwd.getpwnam(SERVICE_ACCOUNT) if os.geteuid() == 0 else None
    except KeyError:
        return None


def is_allowed(access: int, path: Path) -> bool:
    """Whether the service's account, or else this process's, may read (R_OK) or write (W_OK) a file or folder."""
    account = service_account()
    if account is None:
        return os.access(path, access)
    command = ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "test")
    try:
        program_output((*command, "-r" if access == os.R_OK else "-w", str(path)), 3.0)
    except ProgramError:
        return False
    return True
