"""`edge-agent diag`: all that support asks for, in one file, whatever of the board is broken."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.monitor import read_once
from edge_agent.core.config import Config
from edge_agent.core.config_file import ConfigError
from edge_agent.core.errors import printable
from edge_agent.loader import load_config
from edge_agent.tools.diag import service
from edge_agent.tools.diag.archive import packed, write
from edge_agent.tools.diag.bus import retained
from edge_agent.tools.diag.configuration import configuration
from edge_agent.tools.diag.machine import resources, versions
from edge_agent.tools.diag.models import models
from edge_agent.tools.diag.part import Part, collect
from edge_agent.tools.diag.redaction import scrubbed, without_value
from edge_agent.tools.diag.state import state
from edge_agent.tools.doctor.check import Check
from edge_agent.tools.doctor.doctor import checks, line
from edge_agent.tools.programs import is_service_active

DOCTOR_S = 240.0
BROKER_S = 6.0
NEVER = (
    "passwords, keys and what other files of secrets hold",
    "requests and answers: they are the customer's data",
    "what was decoded of prompts",
    "the environment of processes and what was typed to start them",
)
# Where a configuration that does not load would have named others.
_STATE, _MODELS = Config.model_fields["state_dir"].default, Config.model_fields["models_dir"].default


def diag(config_path: Path, out: Path | None, *, as_json: bool) -> int:
    """Writes the bundle and prints what is in it. 1 if it cannot be written.

    78: it is written, but the configuration is broken.
    """
    config: Config | ConfigError
    try:
        config = load_config(config_path)
    except ConfigError as error:
        config = error
    seconds = int(time.time())
    name = f"edge-diag-{_device(config)}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(seconds))}"
    path = out or Path(f"{name}.tar.gz")
    parts = list(_parts(config_path, config))
    contents = _contents(parts)
    files = {"contents.json": _json(contents), **{name: data for part in parts for name, data in part.files.items()}}
    _say("")
    data = packed(files, name, seconds)
    try:
        write(path, data)
    except OSError as error:
        why = error.strerror or str(error)
        print(printable(f"edge-agent: {path}: {why}; name another place with --out FILE"), file=sys.stderr)
        return 1
    if as_json:
        print(_json({"file": str(path.absolute()), "bytes": len(data), **contents}).decode(), end="")
    else:
        _print(parts, path, len(data))
    sys.stdout.flush()
    return 78 if isinstance(config, ConfigError) else 0


_Work = tuple[str, str, Callable[[Part], None] | None, float]


def _parts(config_path: Path, config: Config | ConfigError) -> Iterator[Part]:
    for name, about, work, limit_s in _works(config_path, config):
        _say(f"{name}: {about}")
        if work is None:
            yield Part(name, about, missing=["all of it: the configuration does not load, see configuration.json"])
        else:
            yield collect(name, about, work, limit_s)


def _works(config_path: Path, config: Config | ConfigError) -> Iterator[_Work]:
    """Name, what it is about, its work (None = it needs a configuration), and how long it may take in seconds."""
    loaded = config if isinstance(config, Config) else None
    root = loaded.board.root if loaded else Path("/")
    state_dir, models_dir = (loaded.state_dir, loaded.models_dir) if loaded else (_STATE, _MODELS)
    board = Board(root, models_dir)
    of_models = partial(models, config=loaded) if loaded else None
    of_bus = partial(retained, config=loaded, limit_s=BROKER_S) if loaded else None
    yield "versions", "agent, libraries, kernel, board", partial(versions, board=board), 10.0
    yield "configuration", "without secrets", partial(configuration, path=config_path, config=config), 20.0
    yield "board", "one reading of all sensors", partial(_board, board=board), 70.0
    yield "resources", "memory, disks, limits of the service", partial(_resources, root, state_dir, models_dir), 10.0
    yield "unit", "what systemd says of the service", service.unit, 10.0
    yield "log", f"the service's last {service.LINES} lines", service.log, 20.0
    yield "kernel", "of memory, heat, voltage and disks", service.kernel, 15.0
    yield "state", "which files, how many requests", partial(state, state_dir=state_dir), 20.0
    yield "models", "manifests, headers, record of switches", of_models, 30.0
    yield "bus", "what the broker retains of this board", of_bus, 10.0
    yield "doctor", "all of its checks", partial(_doctor, config_path=config_path), DOCTOR_S


def _resources(root: Path, state_dir: Path, models_dir: Path, part: Part) -> None:
    resources(part, root, (state_dir, models_dir, Path("/"), Path.cwd()))


def _board(part: Part, board: Board) -> None:
    reading = asdict(read_once(board))
    reading["offline"] = sorted(reading["offline"])
    part.document("board.json", reading)
    for name, why in reading["errors"].items():
        part.misses(f"sensor {name}: {why}")


def _doctor(part: Part, config_path: Path) -> None:
    # A second model beside the one that runs could end the service for want of memory.
    reason = "the service runs: health tells of its engine" if is_service_active() else None
    found: list[Check] = []
    for check in checks(config_path, not_loading=reason):
        found.append(check if check.name == "model" else replace(check, found=without_value(check.found)))
        part.document("doctor.json", {"version": __version__, "checks": [asdict(one) for one in found]})
        part.text("doctor.txt", "".join(f"{line(one)}\n" for one in found))
    if reason:
        part.leaves_out(f"engine, memory and kernels: the model is not loaded, {reason}")


def _device(config: Config | ConfigError) -> str:
    name = config.device.id if isinstance(config, Config) else socket.gethostname()
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64] or "board"


def _contents(parts: list[Part]) -> dict[str, Any]:
    """What is in the bundle and what is not; `doctor` and `log` have their own."""
    return {
        "version": __version__,
        "account": os.geteuid(),
        "parts": [
            {
                "name": part.name,
                "about": part.about,
                "files": [{"name": name, "bytes": len(data)} for name, data in part.files.items()],
                "left_out": part.left_out,
                "missing": part.missing,
            }
            for part in parts
        ],
        "never": list(NEVER),
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


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


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
