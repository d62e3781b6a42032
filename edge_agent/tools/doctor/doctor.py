"""`edge-agent doctor`: can this board serve this configuration? Each check says what it found and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.identity import cores, machine
from edge_agent.board.monitor import read_once
from edge_agent.board.reading import BoardReading
from edge_agent.core.config import Config
from edge_agent.core.config_file import ConfigError
from edge_agent.core.errors import printable
from edge_agent.core.model import Model, ModelError
from edge_agent.loader import load_config, signing_key_faults
from edge_agent.models.bundle import open_model, path_fault
from edge_agent.models.record import Record, in_force, read
from edge_agent.tools.doctor.account import who_runs
from edge_agent.tools.doctor.broker import brokers
from edge_agent.tools.doctor.check import Check, Verdict, counted
from edge_agent.tools.doctor.engine import KERNEL_FEATURES, engine
from edge_agent.tools.doctor.machine import machine_checks
from edge_agent.tools.doctor.rights import rights
from edge_agent.tools.doctor.sensors import memory_limit, sensors
from edge_agent.tools.doctor.storage import storage
from edge_agent.tools.programs import is_service_active

MIN_DISK_FREE_MB = 500.0
# Weights in the layout of fast kernels, and what a worker takes beside them.
BESIDE_FACTOR, BESIDE_MB = 2.0, 300.0
_VOUCHED = {
    "good": "as listed, signed",
    "unchecked": "as listed; signed, not checked without models.default.public_key",
    None: "as listed, not signed",
}


def doctor(config_path: Path, *, is_broker_only: bool = False, as_json: bool) -> int:
    """Prints the report; 1 if a check failed."""
    found: list[Check] = []
    for check in checks(config_path, is_broker_only=is_broker_only):
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


def checks(config_path: Path, *, is_broker_only: bool = False, not_loading: str | None = None) -> Iterator[Check]:
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
            else "run it as root, with sudo: the configuration is for root and the service only"
            if isinstance(error.__cause__, PermissionError)
            else "mend the file; `edge-agent check-config` lists the faults one by one",
        )
        return
    yield Check(name="configuration", verdict=Verdict.GOOD, found=str(config_path))
    is_running = is_service_active()
    if is_broker_only:
        yield from _broker(config, is_running=is_running)
        return
    board = Board(config.board.root, config.models_dir)
    reading = read_once(board)
    yield _board(board)
    yield sensors(reading)
    yield memory_limit(reading)
    yield from machine_checks(config.board.root)
    yield _disk(config, reading)
    yield from storage(config, who_runs(), config_path)
    yield from _broker(config, is_running=is_running)
    if faults := signing_key_faults(config):
        yield Check(
            name="commands",
            verdict=Verdict.FAILED,
            found="; ".join(faults),
            advice="put the key there that commands are signed with, or leave commands.key_file out",
        )
    configured, path = config.models["default"], in_force(config)
    if path != configured.path:
        yield in_force_check(path, configured.path, read(config))
    try:
        model = open_model("default", path, configured.public_key, configured.chat_templates)
    except ModelError as error:
        advice = "make models.default.path name a bundle made by edge-convert, whole and unchanged"
        if path != configured.path:
            advice = "until another one is switched to, `run` takes the one before it, else the configured one"
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
    not_loading = not_loading or (_too_large_beside(model, reading) if is_running else None)
    if not_loading is not None:
        yield Check(name="engine", verdict=Verdict.SKIPPED, found=f"the model is not loaded: {not_loading}")
        return
    yield from engine(board, config, model, reading.memory.available_mb)


def _broker(config: Config, *, is_running: bool) -> Iterator[Check]:
    client_id = f"{config.device.site}.{config.device.id}.doctor"
    is_reached = False
    for check in brokers(config.mqtt, client_id):
        is_reached |= check.verdict is Verdict.GOOD
        yield check
    if is_reached:
        yield from rights(config, client_id, is_running=is_running)


def _board(board: Board) -> Check:
    features = [name for name in KERNEL_FEATURES if name in board.cpu_features()]
    found = (
        f"{board.model() or machine()}, {counted(cores(), 'core')}, {', '.join(features) or 'no fast kernels known'}"
    )
    return Check(name="board", verdict=Verdict.GOOD, found=found)


def in_force_check(path: Path, configured: Path, record: Record | None) -> Check:
    """What runs since a model-switch, whether the configuration names it too, and whether there is a way back."""
    previous = None if record is None else record.previous
    # A link that follows the switches, as the playbooks keep it.
    is_same = path.resolve() == configured.resolve()
    others = "to which models.default.path leads, too" if is_same else f"not models.default.path ({configured})"
    found = f"{path} runs since a model-switch, {others}"
    if previous is not None and (fault := path_fault(previous)):
        return Check(
            name="model in force",
            verdict=Verdict.WARNING,
            found=f"{found}; model-rollback has nowhere to go: {fault}",
            advice="put that bundle back, or switch to another one that is to be the way back",
        )
    back = "" if previous is None else f"; model-rollback goes to {previous}"
    return Check(name="model in force", verdict=Verdict.GOOD, found=found + back)


def _too_large_beside(model: Model, reading: BoardReading) -> str | None:
    """A second worker beside the service's: the kernel would end one of them, and not surely this one."""
    available_mb, needed_mb = reading.memory.available_mb, BESIDE_FACTOR * model.size_bytes / 1e6 + BESIDE_MB
    if available_mb is None or available_mb > needed_mb:
        return None
    return f"the service runs, and a second one may need {needed_mb:.0f} MB of {available_mb:.0f} MB; stop it before"


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
