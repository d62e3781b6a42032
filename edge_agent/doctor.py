"""`edge-agent doctor`: can this board serve this configuration? Each check says what it found and what to do."""

from __future__ import annotations

import json
import queue
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.identity import cores, machine
from edge_agent.board.process import resident_mb
from edge_agent.clock import timestamp
from edge_agent.config import Config, ConfigError, MqttConfig, load_config
from edge_agent.config_files import broker_file_faults, command_file_faults
from edge_agent.engine.process import EngineProcess, WorkerExited
from edge_agent.engine.protocol import EngineSettings, Event, Load, LoadFailed, Ready
from edge_agent.faults import how_ended, last_words, printable
from edge_agent.model_store import Model, ModelError, open_model
from edge_agent.mqtt_link import Broken, Connected, Disconnected, LinkEvent, MqttLink

LOAD_TIMEOUT_S = 300.0
BROKER_TIMEOUT_S = 5.0
MIN_DISK_FREE_MB = 500.0
# Feature of the core -> how llama.cpp's system info names it when the library was built to use it.
_KERNEL_FEATURES = {
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
    "avx2": "AVX2",
    "avx512_vnni": "AVX512_VNNI",
}
_VOUCHED = {
    "good": "as listed, signed",
    "unchecked": "as listed; signed, not checked without models.default.public_key",
    None: "as listed, not signed",
}


class Verdict(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report. advice: what to do; None where nothing is to be done."""

    name: str
    verdict: Verdict
    found: str
    advice: str | None = None


def doctor(config_path: Path, *, as_json: bool) -> int:
    """Prints the report; 1 if a check failed."""
    checks: list[Check] = []
    for check in _checks(config_path):
        checks.append(check)
        if not as_json:
            _print(check)
    if as_json:
        print(json.dumps({"version": __version__, "checks": [asdict(check) for check in checks]}, indent=2))
    return 1 if any(check.verdict is Verdict.FAILED for check in checks) else 0


def _print(check: Check) -> None:
    print(f"{check.verdict.value:8} {check.name:14} {printable(check.found)}")
    if check.advice:
        print(f"{'':23} → {printable(check.advice)}")
    sys.stdout.flush()


def _checks(config_path: Path) -> Iterator[Check]:
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
    yield _board(board)
    yield _clock()
    yield _disk(config)
    yield _broker(config.mqtt, f"{config.device.site}.{config.device.id}.doctor")
    if faults := command_file_faults(config):
        yield Check(
            name="commands",
            verdict=Verdict.FAILED,
            found="; ".join(faults),
            advice="put the key there that commands are signed with, or leave commands.key_file out",
        )
    configured = config.models["default"]
    try:
        model = open_model("default", configured.path, configured.public_key)
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
        f"sha256 {model.sha256[:12]}… {'(not vouched for)' if model.warning else _VOUCHED[model.signature]}",
        advice="make a bundle of it with edge-convert" if model.warning else None,
    )
    yield from _engine(board, config, model)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _board(board: Board) -> Check:
    features = [name for name in _KERNEL_FEATURES if name in board.cpu_features()]
    found = (
        f"{board.model() or machine()}, {_counted(cores(), 'core')}, {', '.join(features) or 'no fast kernels known'}"
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


def _disk(config: Config) -> Check:
    folder = next(path for path in (config.models_dir, *config.models_dir.parents) if path.is_dir())
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < MIN_DISK_FREE_MB:
        return Check(
            name="disk",
            verdict=Verdict.WARNING,
            found=f"{free_mb:.0f} MB free at {folder}",
            advice=f"free at least {MIN_DISK_FREE_MB:.0f} MB",
        )
    return Check(name="disk", verdict=Verdict.GOOD, found=f"{free_mb:.0f} MB free at {folder}")


def _memory(available_mb: float | None, worker_mb: float | None) -> Check:
    """Measured, not estimated: what is held depends on model and context. This process stands for the agent."""
    own_mb = resident_mb()
    if available_mb is None:
        return Check(name="memory", verdict=Verdict.SKIPPED, found="/proc/meminfo does not say what is available")
    if worker_mb is None or own_mb is None:
        return Check(name="memory", verdict=Verdict.SKIPPED, found=f"{available_mb:.0f} MB available")
    held_mb = worker_mb + own_mb
    found = (
        f"{available_mb:.0f} MB available before loading, {held_mb:.0f} MB resident after it: "
        f"worker {worker_mb:.0f} MB with the mapped pages of the weights, agent about {own_mb:.0f} MB"
    )
    if available_mb < held_mb:
        advice = "stop other services, choose a smaller quantization or a board with more memory"
        return Check(name="memory", verdict=Verdict.WARNING, found=found, advice=advice)
    return Check(name="memory", verdict=Verdict.GOOD, found=found)


def _broker(mqtt: MqttConfig, client_id: str) -> Check:
    where = f"{mqtt.host}:{mqtt.effective_port}"

    def failed(found: str, advice: str) -> Check:
        return Check(name="broker", verdict=Verdict.FAILED, found=found, advice=advice)

    if faults := broker_file_faults(mqtt):
        return failed("; ".join(faults), "mend these files, or what the configuration says of them; then ask again")
    try:
        with socket.create_connection((mqtt.host, mqtt.effective_port), BROKER_TIMEOUT_S):
            pass
    except OSError as error:
        advice = "check mqtt.host and mqtt.port, the network and the broker's listener"
        return failed(f"{where} cannot be reached: {error.strerror or error}", advice)
    events: queue.Queue[LinkEvent] = queue.Queue()
    link = MqttLink(client_id, mqtt, events.put)
    try:
        link.start()
        event = events.get(timeout=BROKER_TIMEOUT_S)
    except queue.Empty:
        event = None
    finally:
        link.stop(1.0)
    tls = "with TLS" if mqtt.tls else "without TLS"
    match event:
        case Connected():
            return Check(name="broker", verdict=Verdict.GOOD, found=f"{where}, MQTT {mqtt.protocol}, {tls}")
        case Disconnected(broken=Broken.REFUSED):
            advice = "check mqtt.username, mqtt.password_file and the broker's access list"
            return failed(f"{where} refuses the connection: {event.reason}", advice)
        case Disconnected(broken=Broken.NOT_REACHED) if mqtt.tls:
            return failed(
                f"{where} can be reached, but not with TLS: {event.reason}",
                "check that mqtt.port is the broker's TLS listener (mostly 8883), that mqtt.tls.ca_file vouches for "
                "its certificate and that mqtt.host is a name in it; or leave [mqtt.tls] out",
            )
        case Disconnected(broken=Broken.NOT_REACHED):
            return failed(f"{where} cannot be reached: {event.reason}", "check the broker, and ask again")
        case _:
            also = "a client's certificate (mqtt.tls.cert_file)" if mqtt.tls else "TLS ([mqtt.tls], mostly port 8883)"
            return failed(
                f"{where} does not answer a CONNECT of MQTT {mqtt.protocol} {tls}",
                f"check mqtt.protocol, and whether the broker's listener wants {also}",
            )


def _engine(board: Board, config: Config, model: Model) -> Iterator[Check]:
    """Loads the model in a worker, as `run` does."""
    events: queue.Queue[Event | WorkerExited] = queue.Queue()
    settings = EngineSettings(**config.engine.model_dump())
    engine = EngineProcess(Load(model_path=str(model.path), settings=settings, adapters=model.adapters), events.put)
    available_mb = board.read().memory.available_mb
    worker_mb = None
    engine.start()
    try:
        event = events.get(timeout=LOAD_TIMEOUT_S)
        if isinstance(event, Ready):
            worker_mb = resident_mb(event.pid)
    except queue.Empty:
        event = LoadFailed(message=f"no answer within {LOAD_TIMEOUT_S:.0f} s")
    finally:
        engine.stop(5.0)
    yield _memory(available_mb, worker_mb)
    if not isinstance(event, Ready):
        match event:
            case LoadFailed(message=why):
                pass
            case WorkerExited():
                why = f"{how_ended(event.returncode)} {last_words(event.log_tail)}".strip()
            case _:
                why = str(event)
        advice = "check the model with `edge-convert verify`, and the memory that is free"
        yield Check(name="engine", verdict=Verdict.FAILED, found=f"the model does not load: {why}", advice=advice)
        return
    yield Check(
        name="engine",
        verdict=Verdict.GOOD,
        found=f"loaded in {event.load_s:.1f} s, {event.context_tokens} tokens of context, "
        f"{_counted(event.threads, 'thread')}",
    )
    features = set(board.cpu_features())
    unused = [name for name, kernel in _KERNEL_FEATURES.items() if name in features and kernel not in event.cpu_variant]
    if unused:
        yield Check(
            name="kernels",
            verdict=Verdict.FAILED,
            found=f"the cores have {', '.join(unused)}, but llama.cpp was built without",
            advice="build llama-cpp-python on this board, or install a wheel that was built for its cores",
        )
    else:
        yield Check(name="kernels", verdict=Verdict.GOOD, found=event.cpu_variant)
    repacked = event.repacked_mib
    yield Check(
        name="repack",
        verdict=Verdict.SKIPPED if repacked is None else Verdict.WARNING if repacked == 0 else Verdict.GOOD,
        found="the library does not say" if repacked is None else f"{repacked:.1f} MiB of weights in fast layout",
        advice="none of these weights has a fast layout here; on ARM with dotprod q4_0, q8_0 and iq4_nl have one"
        if repacked == 0
        else None,
    )
