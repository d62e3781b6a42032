"""Ansible module: what a board is, and what of the agent is on it. It changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.edge_agent_places import MODELS, OPT, bundle_in_force, linked_agent, linked_bundle

DOCUMENTATION = """
module: edge_agent_board
short_description: What a board is, and what of the agent is on it
options:
  python:
    description: The interpreter that the agent is to run with.
    type: path
    default: /usr/bin/python3
  controller_s:
    description: Seconds since 1970 on the controller, to tell the offset of the board's clock from.
    type: float
  are_hashes_checked:
    description: Also reads every byte of the bundle in use.
    type: bool
    default: false
"""

_LOOK = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2], 64 if sys.maxsize > 2**32 else 32)"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "controller_s": {"type": "float"},
            "are_hashes_checked": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    python, _, bits = (_output(given["python"], "-c", _LOOK) or "").partition(" ")
    disk_free_mb, disk = min((_free_mb(folder), _mount(folder)) for folder in (OPT, MODELS))
    offset_s = None if given["controller_s"] is None else round(time.time() - given["controller_s"], 1)
    module.exit_json(
        changed=False,
        board={
            "model": _text("/proc/device-tree/model").strip("\0\n") or None,
            "architecture": platform.machine(),
            "kernel": platform.release(),
            "python_version": python or None,
            "python_bits": int(bits or 0),
            "has_timesyncd": Path("/usr/lib/systemd/system/systemd-timesyncd.service").exists(),
            "systemd_version": int(re.search(r"\d+", _output("systemctl", "--version") or "0").group()),
            "memory_total_mb": _memory_mb("MemTotal"),
            "memory_available_mb": _memory_mb("MemAvailable"),
            "disk_free_mb": disk_free_mb,
            "disk": disk,
            "has_memory_cgroup": "memory" in _text("/sys/fs/cgroup/cgroup.controllers").split(),
            "is_memory_cgroup_asked_for": "cgroup_enable=memory" in _text("/proc/cmdline").split(),
            "boot_command_line": _boot_command_line(),
            "clock_offset_s": offset_s,
            "clock_told": told_offset(offset_s or 0.0),
            "governors": sorted({path.read_text().strip() for path in _governor_files()}),
            "swap_on_disk": _swap_on_disk(),
        },
        installed=_installed(are_hashes_checked=given["are_hashes_checked"]),
    )


def told_offset(offset_s: float) -> str:
    """In words, of which clock is which: a board without a battery may be years behind."""
    amount = abs(offset_s)
    for unit_s, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if amount >= 2 * unit_s:
            amount, name = round(amount / unit_s), unit
            break
    else:
        amount, name = round(amount, 1), "s"
    return f"{amount} {name} {'behind' if offset_s < 0 else 'ahead of'}"


def _text(path: str) -> str:
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
    return shutil.disk_usage(_there(path)).free // 1_000_000


def _mount(path: Path) -> str:
    """Where the disk is mounted that the folder lies on."""
    there = _there(path).resolve()
    return str(next(folder for folder in (there, *there.parents) if os.path.ismount(folder)))


def _there(path: Path) -> Path:
    """The folder, or the nearest above it that there is."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _boot_command_line() -> str | None:
    """The file that a Raspberry Pi's kernel command line comes from, by release of its system."""
    files = ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt")
    return next((file for file in files if "root=" in _text(file)), None)


def _governor_files() -> list[Path]:
    return list(Path("/sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor"))


def _swap_on_disk() -> list[str]:
    """Files and partitions; what is compressed in memory wears nothing out."""
    names = [line.split()[0] for line in _text("/proc/swaps").splitlines()[1:]]
    return [name for name in names if not name.startswith("/dev/zram")]


def _installed(*, are_hashes_checked: bool) -> dict[str, Any]:
    properties = _output("systemctl", "show", "edge-agent", "-p", "ActiveState,SubState,ActiveEnterTimestamp,NRestarts")
    service = dict(line.split("=", 1) for line in (properties or "").splitlines() if "=" in line)
    bundle = bundle_in_force()
    return {
        "agent": linked_agent(),
        "previous_agent": linked_agent("previous"),
        "bundle": bundle,
        "linked_bundle": linked_bundle(),
        "previous_bundle": linked_bundle("previous"),
        "bundle_fault": _bundle_fault(MODELS / bundle) if bundle and are_hashes_checked else None,
        "agents": _whole(OPT / "versions", "requirements.txt"),
        "bundles": _whole(MODELS, "manifest.json"),
        "contents": {name: _contents(MODELS / name) for name in _names(MODELS)},
        "is_configured": Path("/etc/edge-agent/config.toml").is_file(),
        "service": service.get("ActiveState", "unknown"),
        "since": service.get("ActiveEnterTimestamp", ""),
        "restarts": int(service.get("NRestarts") or 0),
        "last_switch": json.loads(_text("/opt/edge-agent/last-switch.json") or "null"),
    }


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.is_symlink()) if folder.is_dir() else []


def _whole(folder: Path, last: str) -> list[str]:
    """Those to which the file has come that is brought last."""
    return [name for name in _names(folder) if (folder / name / last).is_file()]


def _contents(folder: Path) -> str:
    """What tells bundles apart that have one name and version."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        size_bytes = sum(listed["bytes"] for listed in manifest["files"].values())
        return f"{manifest['quantization']}, {size_bytes / 1e6:.0f} MB"
    except (OSError, ValueError, KeyError, TypeError):
        return "not whole"


def _bundle_fault(folder: Path) -> str | None:
    try:
        files = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
        for name, listed in files.items():
            if _sha256(folder / name) != listed["sha256"]:
                return f"{name} is not as the manifest lists it"
    except (OSError, ValueError, KeyError) as error:
        return str(error)
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()  # not file_digest: Ansible may run with a Python that is older than the agent's
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
