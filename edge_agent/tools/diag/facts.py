"""Facts about the board, its files and its models, one function for each part of the archive."""

from __future__ import annotations

import json
import os
import platform
import pwd
import shutil
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.files import reason
from edge_agent.board.identity import cores, machine
from edge_agent.board.monitor import read_once
from edge_agent.core.clock import timestamp
from edge_agent.core.config import ECHO_MODEL, Config
from edge_agent.gguf.header import Array, HeaderError, read_header
from edge_agent.gguf.model import read_model_facts
from edge_agent.models import record as model_record
from edge_agent.models.bundle import MANIFEST_FILE, MODEL_FILE
from edge_agent.mqtt.credentials import credential_faults
from edge_agent.store.database import FILE, StoreError, store_facts
from edge_agent.tools.client import Client
from edge_agent.tools.diag.part import Part
from edge_agent.tools.diag.redaction import without_value

_PACKAGES = ("llama-cpp-python", "numpy", "paho-mqtt", "pydantic", "jinja2", "jsonschema", "cryptography")
_SYSTEM_FILES = (
    *("proc/meminfo", "proc/swaps", "proc/loadavg", "proc/uptime", "proc/cmdline", "proc/vmstat", "proc/cgroups"),
    *("proc/pressure/memory", "proc/pressure/cpu", "proc/pressure/io", "sys/fs/cgroup/cgroup.controllers"),
    "sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
    *(f"sys/fs/cgroup/system.slice/edge-agent.service/{name}" for name in ("memory.*", "pids.*", "cpu.*")),
)
_MAX_ENTRIES, _MAX_MESSAGES = 500, 50
_MAX_FILE_BYTES, _MAX_MANIFEST_BYTES, _MAX_MESSAGE_BYTES = 20_000, 300_000, 100_000
_LONGEST_VALUE = 200
_JOURNAL_S = 8.0
# From the connection on; retained messages follow each other at once.
_CONNECT_S, _RETAINED_S = 5.0, 1.5


def versions(part: Part, board: Board) -> None:
    """Everything that takes part in an answer, and the board."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        system = None
    part.add_json(
        "versions.json",
        {
            "edge-agent": __version__,
            "python": sys.version,
            "executable": sys.executable,
            "packages": packages,
            "kernel": f"{platform.system()} {platform.release()} {platform.version()}",
            "libc": " ".join(platform.libc_ver()),
            "os": system,
            "machine": machine(),
            "board": board.model(),
            "cores": cores(),
            "cpu_features": board.cpu_features(),
            "clock": timestamp(),
            "account": os.geteuid(),
        },
    )


def sensors(part: Part, board: Board) -> None:
    reading = asdict(read_once(board))
    reading["offline"] = sorted(reading["offline"])
    part.add_json("board.json", reading)
    for name, why in reading["errors"].items():
        part.add_missing(f"sensor {name}: {why}")


def resources(part: Part, root: Path, folders: Iterable[Path]) -> None:
    """Memory, disks, limits of the service. root: where /proc and /sys lie; folders: on the disks that matter."""
    texts: list[str] = []
    for path in sorted(path for pattern in _SYSTEM_FILES for path in root.glob(pattern)):
        try:
            texts.append(f"== {path.relative_to(root)}\n{head(path, _MAX_FILE_BYTES)}\n")
        except OSError as error:
            part.add_missing(f"/{path.relative_to(root)}: {reason(error)}")
    part.add_text("resources.txt", "\n".join(texts))
    part.add_json("disks.json", {str(folder): _disk_facts(folder) for folder in folders})


def _disk_facts(folder: Path) -> dict[str, Any]:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        usage, nodes = shutil.disk_usage(existing), os.statvfs(existing)
    except OSError as error:
        return {"fault": reason(error)}
    return {
        "of": str(existing),
        "total_bytes": usage.total,
        "free_bytes": usage.free,
        "inodes_free": nodes.f_favail,
        "is_read_only": bool(nodes.f_flag & os.ST_RDONLY),
        "is_writable": os.access(folder, os.W_OK),
    }


def state(part: Part, state_dir: Path) -> None:
    """The files of the service. Requests are only counted: what callers asked and were answered is theirs."""
    part.add_json("state.json", listing(state_dir))
    for path in islice(sorted(state_dir.glob("**/calibration.json")), 10):
        try:
            part.add_text(f"calibration-{path.parent.name}.json", head(path, _MAX_FILE_BYTES))
        except OSError as error:
            part.add_missing(f"{path}: {reason(error)}")
    part.left_out.append("the requests and answers in the journal, and decoded prompts: they are the customer's data")
    journal = state_dir / FILE
    try:
        if journal.exists():
            part.add_json("journal.json", {"path": str(journal), **asdict(store_facts(journal, _JOURNAL_S))})
    except (OSError, StoreError) as error:
        part.add_missing(f"journal: {'not counted in time' if str(error) == 'interrupted' else reason(error)}")


def models(part: Part, config: Config) -> None:
    """The configured model, the one in force and the one before it. Doctor's check `model` verifies the hashes."""
    configured, in_force = config.models["default"].path, model_record.in_force(config)
    record = model_record.read_record(config)
    paths = {configured, in_force, *filter(None, [record.previous if record else None])}
    part.add_json(
        "models.json",
        {
            "configured": str(configured),
            "in_force": str(in_force),
            "record": _json_file(config.state_dir / model_record.FILE),
            "models_dir": listing(config.models_dir),
            "models": {str(path): _model_facts(path) for path in sorted(paths)},
        },
    )


def _json_file(path: Path) -> Any:
    try:
        return json.loads(head(path, _MAX_MANIFEST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return {"fault": reason(error)}


def _model_facts(path: Path) -> dict[str, Any]:
    if str(path).startswith(ECHO_MODEL):
        return {"echo": "no model: the engine for trying the agent"}
    found: dict[str, Any] = {"file": file_facts(path)}
    if path.is_dir():
        found |= {"files": listing(path), "manifest": _json_file(path / MANIFEST_FILE)}
    try:
        found["header"] = _header_facts(path / MODEL_FILE if path.is_dir() else path)
    except (OSError, HeaderError) as error:
        found["header"] = {"fault": reason(error)}
    return found


def _header_facts(gguf: Path) -> dict[str, Any]:
    """The values of the header without arrays and long texts, and how many tensors there are of each type."""
    header = read_header(gguf)
    values = {
        key: f"{len(value)} characters" if isinstance(value, str) and len(value) > _LONGEST_VALUE else value
        for key, value in header.values.items()
        if not isinstance(value, Array)
    }
    fault = None
    try:
        read_model_facts(gguf)
    except HeaderError as error:
        fault = str(error)
    types = Counter(tensor.type.name for tensor in header.tensors)
    return {"fault": fault, "values": values, "tensors": dict(types)}


def retained(part: Part, config: Config) -> None:
    """What the broker retains of this board: state, info, health, alarms."""
    if faults := credential_faults(config.mqtt):
        part.add_missing("; ".join(map(without_value, faults)))
        return
    topics, found = config.topics, dict[str, Any]()
    filters = {topics.state, topics.info, topics.health, topics.alarm("+")}
    with Client(f"diag-{os.getpid()}-{time.monotonic_ns()}", config.mqtt, filters) as client:
        if not client.connect(_CONNECT_S):
            part.add_missing(f"the broker {config.mqtt.brokers}: {client.reason or 'no answer'}")
            return
        for message in islice(client.messages(_RETAINED_S), _MAX_MESSAGES):
            if message.payload:
                found[message.topic] = {"retained": message.is_retained, "message": _message(message.payload)}
    part.add_json("retained.json", found)
    if missing := [topic for topic in (topics.state, topics.info, topics.health) if topic not in found]:
        part.add_missing(f"the broker has nothing on {', '.join(missing)}")


def _message(payload: bytes) -> Any:
    if len(payload) > _MAX_MESSAGE_BYTES:
        return f"{len(payload)} bytes: too long"
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return f"{len(payload)} bytes that are not JSON"


def file_facts(path: Path) -> dict[str, Any]:
    """Owner, mode, size and age of a file, or why they are unknown. A link is described as a link."""
    try:
        found = path.lstat()
        target = str(path.readlink()) if stat.S_ISLNK(found.st_mode) else None
    except (OSError, ValueError) as error:
        return {"fault": reason(error)}
    facts = {
        "mode": stat.filemode(found.st_mode),
        "owner": _user_name(found.st_uid),
        "bytes": found.st_size,
        # Not core.clock.timestamp: an impossible time says something about the clock.
        "modified": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.st_mtime)),
        "is_readable": os.access(path, os.R_OK),
    }
    return facts if target is None else {**facts, "target": target}


def listing(folder: Path) -> list[dict[str, Any]]:
    """Everything in a folder and below it, up to a number of entries."""

    def walk() -> Iterator[dict[str, Any]]:
        for parent, folders, names in os.walk(folder, onerror=faults.append):
            for name in sorted([*folders, *names]):
                path = Path(parent, name)
                yield {"path": str(path.relative_to(folder)), **file_facts(path)}

    faults: list[OSError] = []
    found = list(islice(walk(), _MAX_ENTRIES))
    found += [{"path": str(error.filename), "fault": reason(error)} for error in faults]
    return (
        [*found, {"path": "…", "fault": f"more than {_MAX_ENTRIES} entries"}] if len(found) >= _MAX_ENTRIES else found
    )


def head(path: Path, limit: int) -> str:
    """The first bytes of a file as text. Raises OSError."""
    with path.open("rb") as file:
        return file.read(limit).decode("utf-8", "replace").strip("\0\n")


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
