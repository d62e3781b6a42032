"""`edge-agent doctor`: can this board serve this configuration? Each check says what it found and what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.identity import cores, machine
from edge_agent.board.monitor import read_once
from edge_agent.board.reading import BoardReading
from edge_agent.clock import timestamp
from edge_agent.config import Config
from edge_agent.config_files import command_file_faults
from edge_agent.config_loader import ConfigError, load_config
from edge_agent.doctor.broker import brokers
from edge_agent.doctor.check import Check, Verdict, counted
from edge_agent.doctor.engine import KERNEL_FEATURES, engine
from edge_agent.doctor.sensors import memory_limit, sensors
from edge_agent.faults import printable
from edge_agent.model_record import in_force
from edge_agent.model_store import ModelError, open_model

MIN_DISK_FREE_MB = 500.0
_VOUCHED = {
    "good": "as listed, signed",
    "unchecked": "as listed; signed, not checked without models.default.public_key",
    None: "as listed, not signed",
}


def doctor(config_path: Path, *, as_json: bool) -> int:
    """Prints the report; 1 if a check failed."""
    found: list[Check] = []
    for check in checks(config_path):
        found.append(check)
        if not as_json:
            print(line(**asdict(check)), flush=True)
    if as_json:
        print(json.dumps({"version": __version__, "checks": [asdict(check) for check in found]}, indent=2))
    return 1 if any(check.verdict is Verdict.FAILED for check in found) else 0


def line(name: str, verdict: str, found: str, advice: str | None) -> str:
    """A check as it is printed, with what to do on a line of its own."""
    told = f"{verdict:8} {name:14} {printable(found)}"
    return f"{told}\n{'':23} → {printable(advice)}" if advice else told


def checks(config_path: Path, *, not_loading: str | None = None) -> Iterator[Check]:
    """One after the other, as they are done. not_loading: why the model is not to be loaded; None = it is."""
    try:
        config = load_config(config_path)
    except ConfigError as error:
        yield Check(
            name="configuration",
            verdict=Verdict.FAILED,
            found=f"{config_path}: " + "; ".join(error.faults),
            advice="name the configuration with --config FILE"
            if isinstance(error.__cause__, FileNotFoundError)
            else "mend the file; `edge-agent check-config` lists the faults one by one",
        )
        return
    yield Check(name="configuration", verdict=Verdict.GOOD, found=str(config_path))
    board = Board(config.board.root, config.models_dir)
    reading = read_once(board)
    yield _board(board)
    yield sensors(reading)
    yield memory_limit(reading)
    yield _clock()
    yield _disk(config, reading)
    yield from brokers(config.mqtt, f"{config.device.site}.{config.device.id}.doctor")
    if faults := command_file_faults(config):
        yield Check(
            name="commands",
            verdict=Verdict.FAILED,
            found="; ".join(faults),
            advice="put the key there that commands are signed with, or leave commands.key_file out",
        )
    configured = config.models["default"]
    try:
        model = open_model("default", in_force(config), configured.public_key, configured.chat_templates)
    except ModelError as error:
        advice = "make models.default.path name a bundle made by edge-convert, whole and unchanged"
        if configured.public_key is not None:
            advice += ", and models.default.public_key the public key of who signed it"
        yield Check(name="model", verdict=Verdict.FAILED, found=str(error), advice=advice)
        return
    yield Check(
        name="model",
        verdict=Verdict.WARNING if model.warning else Verdict.GOOD,
        found=f"{model.bundle_name} {model.quantization}, {model.size_bytes / 1e6:.1f} MB, "
        f"sha256 {model.sha256[:12]}… {'(not vouched for)' if model.warning else _VOUCHED[model.signature]}; "
        f"chat template {model.chat_template_sha256 or 'none, ChatML is used'}",
        advice="make a bundle of it with edge-convert" if model.warning else None,
    )
    if not_loading is not None:
        yield Check(name="engine", verdict=Verdict.SKIPPED, found=f"the model is not loaded: {not_loading}")
        return
    yield from engine(board, config, model, reading.memory.available_mb)


def _board(board: Board) -> Check:
    features = [name for name in KERNEL_FEATURES if name in board.cpu_features()]
    found = (
        f"{board.model() or machine()}, {counted(cores(), 'core')}, {', '.join(features) or 'no fast kernels known'}"
    )
    return Check(name="board", verdict=Verdict.GOOD, found=found)


def _clock() -> Check:
    now = timestamp()
    if now is None:
        return Check(
            name="clock",
            verdict=Verdict.WARNING,
            found=f"not set ({time.strftime('%Y-%m-%d', time.gmtime())})",
            advice="times are null until it is; enable systemd-timesyncd with a server that this network reaches",
        )
    return Check(name="clock", verdict=Verdict.GOOD, found=now)


def _disk(config: Config, reading: BoardReading) -> Check:
    if reading.disk_free_mb is None:
        why = reading.errors.get("disk", "not told")
        return Check(
            name="disk",
            verdict=Verdict.WARNING,
            found=f"unknown how much is free at {config.models_dir}: {why}",
            advice="look after the disk that models_dir lies on, and how it is mounted",
        )
    found = f"{reading.disk_free_mb:.0f} MB free at {config.models_dir}"
    if reading.disk_free_mb < MIN_DISK_FREE_MB:
        advice = f"free at least {MIN_DISK_FREE_MB:.0f} MB"
        return Check(name="disk", verdict=Verdict.WARNING, found=found, advice=advice)
    return Check(name="disk", verdict=Verdict.GOOD, found=found)
