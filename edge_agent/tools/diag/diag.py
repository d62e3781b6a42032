"""`edge-agent diag`: what support asks for, in one archive, whatever is broken on the board."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.core.config import Config
from edge_agent.core.config_file import ConfigError
from edge_agent.core.errors import printable
from edge_agent.loader import load_config
from edge_agent.tools.diag import facts, service
from edge_agent.tools.diag.configuration import configuration
from edge_agent.tools.diag.part import Part, collect
from edge_agent.tools.diag.redaction import scrubbed, without_value
from edge_agent.tools.doctor.check import Check
from edge_agent.tools.doctor.doctor import checks, line
from edge_agent.tools.output import ProgressLine, fail
from edge_agent.tools.programs import is_service_active

NEVER = (
    "passwords, keys and the contents of other files of secrets",
    "requests and answers: they are the customer's data",
    "decoded prompts",
    "the environment and the command lines of processes",
)


def diag(config_path: Path, out: Path | None, *, as_json: bool) -> int:
    """Writes the archive and prints its contents.

    Returns 1 if it cannot be written, 78 if it is written and the configuration is broken.
    """
    config: Config | ConfigError
    try:
        config = load_config(config_path)
    except ConfigError as error:
        config = error
    seconds = int(time.time())
    name = f"edge-diag-{_device(config)}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(seconds))}"
    path = out or Path(f"{name}.tar.gz")
    parts = list(_collect_all(config_path, config))
    contents = {
        "version": __version__,
        "account": os.geteuid(),
        "parts": [
            {**asdict(part), "files": [{"name": file, "bytes": len(data)} for file, data in part.files.items()]}
            for part in parts
        ],
        "never": list(NEVER),
    }
    files = {"contents.json": _encoded(contents)}
    for part in parts:
        files |= part.files
    archive = packed(files, name, seconds)
    try:
        write_private(path, archive)
    except OSError as error:
        return fail(f"{path}: {error.strerror or error}; name another place with --out FILE")
    if as_json:
        print(_encoded({"file": str(path.absolute()), "bytes": len(archive), **contents}).decode(), end="")
    else:
        _print(parts, path, len(archive))
    return 78 if isinstance(config, ConfigError) else 0


def _collect_all(config_path: Path, config: Config | ConfigError) -> Iterator[Part]:
    progress = ProgressLine()
    for name, about, work, limit_s in _parts(config_path, config):
        progress.say(f"{name}: {about}")
        if work is None:
            yield Part(name, about, missing=["all of it: the configuration does not load, see configuration.json"])
        else:
            yield collect(name, about, work, limit_s)
    progress.clear()


def _parts(
    config_path: Path, config: Config | ConfigError
) -> Iterator[tuple[str, str, Callable[[Part], None] | None, float]]:
    """Name, what it is about, its work (None = it needs a configuration), and how many seconds it may take."""
    loaded = config if isinstance(config, Config) else None
    defaults = Config.model_fields
    root = loaded.board.root if loaded else Path("/")
    state_dir = loaded.state_dir if loaded else defaults["state_dir"].default
    models_dir = loaded.models_dir if loaded else defaults["models_dir"].default
    board = Board(root, models_dir)
    folders = (state_dir, models_dir, Path("/"), Path.cwd())
    models = partial(facts.models, config=loaded) if loaded else None
    bus = partial(facts.retained, config=loaded) if loaded else None
    yield "versions", "agent, libraries, kernel, board", partial(facts.versions, board=board), 10.0
    yield "configuration", "without secrets", partial(configuration, path=config_path, config=config), 20.0
    yield "board", "one reading of all sensors", partial(facts.sensors, board=board), 70.0
    yield "resources", "memory, disks, limits", partial(facts.resources, root=root, folders=folders), 10.0
    yield "unit", "the service in systemd", service.unit, 10.0
    yield "log", f"the service's last {service.LINES} lines", service.log, 20.0
    yield "kernel", "memory, heat, voltage and disks", service.kernel, 15.0
    yield "state", "which files, how many requests", partial(facts.state, state_dir=state_dir), 20.0
    yield "models", "manifests, headers, record of switches", models, 30.0
    yield "bus", "what the broker retains of this board", bus, 10.0
    yield "doctor", "all of its checks", partial(_doctor, config_path=config_path), 240.0


def _doctor(part: Part, config_path: Path) -> None:
    # A second model beside a running service could take the memory that it needs.
    reason = "the service runs: health describes its engine" if is_service_active() else None
    found: list[Check] = []
    for check in checks(config_path, not_loading=reason):
        found.append(check if check.name == "model" else replace(check, found=without_value(check.found)))
        part.add_json("doctor.json", {"version": __version__, "checks": [asdict(one) for one in found]})
        part.add_text("doctor.txt", "".join(f"{line(one)}\n" for one in found))
    if reason:
        part.left_out.append(f"engine, memory and kernels: the model is not loaded, {reason}")


def _device(config: Config | ConfigError) -> str:
    name = config.device.id if isinstance(config, Config) else socket.gethostname()
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64] or "board"


def _encoded(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def packed(files: dict[str, bytes], folder: str, seconds: int) -> bytes:
    """A .tar.gz of these files in one folder. seconds: the time of its making, since 1970."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=seconds) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), seconds, 0o600
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all. Raises OSError."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    try:
        # O_EXCL: not through a link in a shared folder such as /tmp.
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            if (user := os.environ.get("SUDO_UID", "")).isdecimal() and os.geteuid() == 0:
                os.fchown(file.fileno(), int(user), -1)  # the caller of sudo sends it on
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _print(parts: list[Part], path: Path, size: int) -> None:
    for part in parts:
        kilobytes = f"{sum(map(len, part.files.values())) / 1000:.1f} kB" if part.files else "–"
        print(f"{part.name:14} {kilobytes:>9}  {part.about}")
        for word, reasons in (("missing", part.missing), ("left out", part.left_out)):
            for reason in reasons:
                print(f"{'':26}{word}: {printable(reason)}")
    for number, what in enumerate(NEVER):
        print(f"{'' if number else 'never in it':26}{what}")
    print(printable(f"{scrubbed(str(path.absolute()))}, {size / 1000:.1f} kB: look through it before you send it"))
