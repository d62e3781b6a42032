"""An Ansible module that tells what a board is, and what of the agent is on it. It changes nothing."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: edge_agent_board
short_description: What a board is, and what of the agent is on it
options:
  python:
    description: The interpreter that the agent is to run with.
    type: path
    default: /usr/bin/python3
  controller_s:
    description: Seconds since 1970 on the controller, for the offset of the board's clock.
    type: float
  bundle:
    description: The bundle to bring. The hashes of its files, and of those of the bundle in force, are compared.
    type: str
"""

OPT = Path("/opt/edge-agent")
MODELS = Path("/var/lib/edge-agent/models")
# The agent's record of its last model switch.
SWITCHED = Path("/var/lib/edge-agent/state/model-1.json")
# tasks/switch.yml writes it before it changes anything, and removes it at its end.
SWITCHING = OPT / "switching.json"
# Reasons in the service's status that a damaged file may cause.
MODEL_REASONS = ("model-fallback", "model-not-loaded", "model-quality")

_PYTHON_FACTS = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2], 64 if sys.maxsize > 2**32 else 32)"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "controller_s": {"type": "float"},
            "bundle": {"type": "str"},
        },
        supports_check_mode=True,
    )
    given = module.params
    offset_s = None if given["controller_s"] is None else round(time.time() - given["controller_s"], 1)
    module.exit_json(changed=False, board=board(given["python"], offset_s), installed=installed(given["bundle"]))


def board(python: str, offset_s: float | None) -> dict[str, Any]:
    version, _, bits = (_output(python, "-c", _PYTHON_FACTS) or "").partition(" ")
    systemd = re.search(r"\d+", _output("systemctl", "--version") or "")
    folder = min((OPT, MODELS), key=_free_mb)
    governors = Path("/sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor")
    swaps = [line.split()[0] for line in _text("/proc/swaps").splitlines()[1:]]
    return {
        "model": _text("/proc/device-tree/model").strip("\0\n") or None,
        "architecture": platform.machine(),
        "python_version": version or None,
        "python_bits": int(bits or 0),
        "has_timesyncd": Path("/usr/lib/systemd/system/systemd-timesyncd.service").exists(),
        "systemd_version": int(systemd.group()) if systemd else 0,
        "memory_total_mb": _memory_mb("MemTotal"),
        "memory_available_mb": _memory_mb("MemAvailable"),
        "disk_free_mb": _free_mb(folder),
        "disk": str(folder),
        "has_memory_cgroup": "memory" in _text("/sys/fs/cgroup/cgroup.controllers").split(),
        "is_memory_cgroup_asked_for": "cgroup_enable=memory" in _text("/proc/cmdline").split(),
        "boot_command_line": _boot_command_line(),
        "clock_offset_s": offset_s,
        "governors": sorted({path.read_text().strip() for path in governors}),
        # Swap to compressed memory wears nothing out.
        "swap_on_disk": [name for name in swaps if not name.startswith("/dev/zram")],
    }


def installed(bundle: str | None = None) -> dict[str, Any]:
    """What is installed. If given the `bundle` to bring, checks the hashes of that and of the bundle in force."""
    properties = "ActiveState,ActiveEnterTimestamp,NRestarts,StatusText"
    shown = _output("systemctl", "show", "edge-agent", "-p", properties) or ""
    service = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    status = service.get("StatusText", "")
    is_active = service.get("ActiveState") == "active"
    # Hashing a large model takes a slow card half a minute.
    hashed = {bundle, *([path.name for path in _switched()][:1] or [_linked(MODELS)])} if bundle else set()
    if not is_active or any(reason in status for reason in MODEL_REASONS):
        hashed = set(_names(MODELS))
    bundles = {name: _bundle(MODELS / name, hashed=name in hashed) for name in _names(MODELS)}
    is_fallback = "model-fallback" in status
    is_running = is_active and not is_fallback and "model-load-failed" not in status
    versions = _names(OPT / "versions")
    return {
        "agent": _linked(OPT),
        "previous_agent": _linked(OPT, "previous"),
        "bundle": bundle_in_force(bundles, is_fallback=is_fallback, is_running=is_running),
        "linked_bundle": _linked(MODELS),
        "previous_bundle": _linked(MODELS, "previous"),
        # What `model-rollback` can go back to.
        "kept_bundles": [path.name for path in _switched()],
        "versions": versions,
        # A version is whole once this file is in it.
        "agents": [name for name in versions if (OPT / "versions" / name / "requirements.txt").is_file()],
        "bundles": bundles,
        "is_configured": Path("/etc/edge-agent/config.toml").is_file(),
        "service": service.get("ActiveState", "unknown"),
        "has_model": "model-load-failed" not in status,
        "since": service.get("ActiveEnterTimestamp", ""),
        "restarts": int(service.get("NRestarts") or 0),
        "interrupted": json.loads(_text(SWITCHING) or "null"),
        # Kept until the service has answered with the new one.
        "has_former_configuration": Path("/run/edge-agent-former").is_dir(),
    }


def bundle_in_force(
    bundles: dict[str, dict[str, Any]], *, is_fallback: bool = False, is_running: bool = False
) -> str | None:
    """What the agent opens at its start: the bundle of its last switch, else the one before, else the linked one.

    With `is_fallback` the agent runs, but could not open the first of these, which may have been repaired since. With
    `is_running` it has opened the first of these, which may have been damaged since.
    """
    opened = (
        path.name
        for path in _switched()[is_fallback:]
        if path.name in bundles and (is_running or bundles[path.name]["hashes"])
    )
    return next(opened, None) or _linked(MODELS)


def _switched() -> list[Path]:
    """The bundle of the agent's last switch, then the one that it would roll back to; empty if there was no switch."""
    try:
        record = json.loads(SWITCHED.read_text("utf-8"))
        # A switch from another configured path no longer counts.
        if record["configured"] == str(MODELS / "current"):
            return [Path(path) for path in (record["current"], record["previous"]) if path]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return []


def _bundle(folder: Path, *, hashed: bool = False) -> dict[str, Any]:
    """The bundle in a folder. `about` tells bundles of one name and version apart.

    `hashes` are those of its files, and empty if it is not whole. Files are compared with the manifest by their sizes,
    and if `hashed`, by their hashes.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        files = manifest["files"]
        hashes = [listed["sha256"] for listed in files.values()]
        about = f"{manifest['quantization']}, {sum(listed['bytes'] for listed in files.values()) / 1e6:.0f} MB"
        for name, listed in files.items():
            if (folder / name).stat().st_size != listed["bytes"]:
                raise ValueError(f"{name} is cut")
            if hashed and _sha256(folder / name) != listed["sha256"]:
                raise ValueError(f"{name} is damaged")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"about": "not whole", "hashes": [], "has_canaries": False}
    return {"about": about, "hashes": hashes, "has_canaries": "canaries.json" in files}


def _sha256(path: Path) -> str:
    # hashlib.file_digest is not used, because Python 3.10 of Ubuntu 22.04 lacks it.
    total = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            total.update(data)
    return total.hexdigest()


def _linked(folder: Path, link: str = "current") -> str | None:
    path = folder / link
    return path.readlink().name if path.is_symlink() else None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.is_symlink()) if folder.is_dir() else []


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _memory_mb(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _text("/proc/meminfo"), flags=re.MULTILINE)
    return int(found.group(1)) * 1024 // 1_000_000 if found else 0


def _free_mb(path: Path) -> int:
    """Free space on the folder's disk, or on that of the nearest folder above it that exists."""
    there = next(folder for folder in (path, *path.parents) if folder.is_dir())
    return shutil.disk_usage(there).free // 1_000_000


def _boot_command_line() -> str | None:
    """The file with a Raspberry Pi's kernel command line; its place depends on the system's release."""
    files = ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt")
    return next((file for file in files if "root=" in _text(file)), None)


if __name__ == "__main__":
    main()
