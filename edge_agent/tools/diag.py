"""`edge-agent diag`: what support asks for, in one archive without secrets, whatever is broken on the board."""

import io
import json
import os
import platform
import re
import secrets
import socket
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.board.monitor import read_with_rates
from edge_agent.core.background import in_background
from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.core.config_file import ConfigError
from edge_agent.core.environment import cores
from edge_agent.core.files import private_file
from edge_agent.core.terminal import StatusLine, fail
from edge_agent.core.wording import printable
from edge_agent.loader import all_file_faults, config_hints, load_config
from edge_agent.models import record
from edge_agent.models.bundle import MANIFEST_FILE
from edge_agent.mqtt.credentials import credential_faults
from edge_agent.tools.bus import NoAnswerError
from edge_agent.tools.client import Client
from edge_agent.tools.doctor.doctor import checks, line
from edge_agent.tools.programs import UNIT, ProgramError, is_service_active, program_output

NEVER = (
    "passwords, keys and the contents of other files of secrets",
    "requests and answers: they are the customer's data",
    "decoded prompts",
    "the environment and the command lines of processes",
)
LEFT_OUT = "(left out)"
# The names and contents of a part's files, one by one. A content is text, or a JSON value.
Files = Iterator[tuple[str, Any]]

# Longer files are cut.
_MAX_BYTES = 400_000
_MAX_MESSAGES = 50
_PART_S, _DOCTOR_S = 60.0, 240.0
_CONNECT_S, _RETAINED_S = 5.0, 1.5
_SYSTEM_FILES = (
    *("proc/meminfo", "proc/swaps", "proc/mounts", "proc/loadavg", "proc/uptime", "proc/pressure/memory"),
    "sys/fs/cgroup/system.slice/edge-agent.service/memory.events",
)
# Neither Environment= nor SetCredential=, because there may be secrets in them.
_UNIT_PROPERTIES = (
    "LoadState,ActiveState,SubState,Result,UnitFileState,FragmentPath,DropInPaths,NRestarts,ExecMainStatus,"
    "ExecMainCode,ExecMainStartTimestamp,ExecMainExitTimestamp,StatusText,MemoryCurrent,MemoryPeak,MemoryMax,User"
)
# Parts that are a program's output.
_PROGRAMS = {
    "unit": ("systemctl", "show", UNIT, "--property", _UNIT_PROPERTIES),
    "kernel": ("dmesg",),
    "disks": ("df", "--human-readable", "--print-type"),
}


def diag(config_path: Path, out: Path | None) -> int:
    """Writes the archive and prints its contents.

    Returns 1 if it cannot be written, 78 if it is written and the configuration is broken.
    """
    config: Config | ConfigError
    try:
        config = load_config(config_path)
    except ConfigError as error:
        config = error
    device = config.device.id if isinstance(config, Config) else re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
    name = f"edge-diag-{device}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    path = out or Path(f"{name}.tar.gz")
    files: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    progress = StatusLine()
    for part, work in _parts(config_path, config).items():
        progress.say(part)
        if why := _collect(files, work, _DOCTOR_S if part == "doctor" else _PART_S):
            missing[part] = scrubbed(why)
    progress.clear()
    sizes = {name: len(data) for name, data in files.items()}
    contents = {"version": __version__, "account": os.geteuid(), "files": sizes, "missing": missing, "never": NEVER}
    files["contents.json"] = _redacted_bytes(contents)
    try:
        size = _write(path, files, name)
    except OSError as error:
        return fail(f"{path}: {error.strerror or error}; name another place with --out FILE")
    for name, data in files.items():
        print(f"{name:20} {len(data) / 1000:7.1f} kB")
    for part, why in missing.items():
        print(f"{part:20} missing: {printable(why)}")
    print(f"{'never in it':20} {'; '.join(NEVER)}")
    print(printable(f"{path.absolute()}, {size / 1000:.1f} kB: look through it before you send it"))
    return 78 if isinstance(config, ConfigError) else 0


def _parts(path: Path, config: Config | ConfigError) -> dict[str, Callable[[], Files]]:
    if isinstance(config, ConfigError):
        defaults = Config.model_fields
        root, state_dir, models_dir = Path("/"), defaults["state_dir"].default, defaults["models_dir"].default
    else:
        root, state_dir, models_dir = config.board.root, config.state_dir, config.models_dir
    board = Board(root, models_dir)
    return {
        "versions": partial(_versions, board),
        "configuration": partial(_configuration, path, config),
        "board": lambda: iter([("board.json", asdict(read_with_rates(board)))]),
        "resources": partial(_resources, root),
        **{name: partial(_output, name, command) for name, command in _PROGRAMS.items()},
        "log": _log,
        "state": partial(_state, state_dir),
        "models": partial(_models, models_dir, config),
        "bus": partial(_retained, config),
        "doctor": partial(_doctor, path),
    }


def _collect(files: dict[str, bytes], work: Callable[[], Files], limit_s: float) -> str | None:
    """Adds the files of one part; returns why some or all of them are missing."""

    def fill() -> None:
        for name, content in work():
            files[name] = _redacted_bytes(content)

    try:
        in_background("diag", fill).result(limit_s)
    except TimeoutError:
        return f"not done within {limit_s:g} s"
    except Exception as error:  # noqa: BLE001 - support needs the other parts all the more
        return str(error) or type(error).__name__
    return None


def _versions(board: Board) -> Files:
    """Everything that takes part in an answer, and the board."""
    versions = {
        "edge-agent": __version__,
        "python": sys.version,
        "packages": {package.name: package.version for package in distributions()},
        "system": platform.platform(),
        "board": board.model(),
        "cores": cores(),
        "cpu_features": board.cpu_features(),
        "clock": timestamp(),
    }
    yield "versions.json", versions


def _configuration(path: Path, config: Config | ConfigError) -> Files:
    """What the file sets, if it loads, because in a broken one nothing says which values are secrets."""
    document: dict[str, Any] = {"path": str(path)}
    if isinstance(config, ConfigError):
        document["faults"] = list(map(without_value, config.faults))
    else:
        document["faults"] = list(map(without_value, all_file_faults(config)))
        document["hints"] = list(map(without_value, config_hints(config)))
        document["set"] = config.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    yield "configuration.json", document


def _resources(root: Path) -> Files:
    """Memory, load and mounts, by the /proc and /sys below the root."""
    files = {name: root / name for name in _SYSTEM_FILES}
    yield (
        "resources.txt",
        "\n".join(f"== {name}\n{file.read_text('utf-8')}" for name, file in files.items() if file.is_file()),
    )


def _output(name: str, command: tuple[str, ...]) -> Files:
    yield f"{name}.txt", program_output(command, 5.0)


def _log() -> Files:
    """The service's last lines. What systemd says of it is kept whole."""
    journal = program_output(
        ("journalctl", "--unit", UNIT, "--lines", "1000", "--output", "short-iso", "--no-pager", "--quiet"), 10.0
    )
    entries = [entry for entry in map(_ENTRY.fullmatch, journal.splitlines()) if entry]
    texts = [entry["text"] if entry["program"] == "systemd" else safe_log_line(entry["text"]) for entry in entries]
    yield "log.txt", "".join(f"{entry['head']}{text}\n" for entry, text in zip(entries, texts, strict=True) if text)
    if not journal:
        raise ProgramError(f"journald has no line of {UNIT} for this account; root or the group adm may read it")


def _state(state_dir: Path) -> Files:
    """The files of the service, without requests."""
    for path in islice(sorted(state_dir.glob("**/calibration.json")), 10):
        yield f"calibration-{path.parent.name}.json", json.loads(path.read_bytes())
    yield "state.txt", _listing(state_dir)


def _models(models_dir: Path, config: Config | ConfigError) -> Files:
    """The configured model, the one in force and the one before it. Doctor's check `model` verifies the hashes."""
    if isinstance(config, Config):
        configured, switched = config.models["default"].path, record.read_record(config)
        paths = [configured, *([switched.current, switched.previous] if switched else [])]
        manifests = {str(path): path / MANIFEST_FILE for path in paths if path}
        models = {
            "configured": str(configured),
            "record": switched and switched.model_dump(mode="json"),
            "manifests": {name: json.loads(file.read_bytes()) for name, file in manifests.items() if file.is_file()},
        }
        yield "models.json", models
    yield "models.txt", _listing(models_dir)


def _retained(config: Config | ConfigError) -> Files:
    """What the broker retains of this board: its state, info, health and alarms."""
    if isinstance(config, ConfigError):
        raise NoAnswerError("the configuration does not load")
    if faults := credential_faults(config.mqtt):
        raise NoAnswerError("; ".join(map(without_value, faults)))
    topics, found = config.topics, dict[str, Any]()
    filters = {topics.state, topics.info, topics.health, topics.alarm("+")}
    with Client(f"diag-{secrets.token_hex(8)}", config.mqtt, filters) as client:
        if not client.connect(_CONNECT_S):
            raise NoAnswerError(f"the broker {config.mqtt.brokers}: {client.reason or 'no answer'}")
        for message in islice(client.messages(_RETAINED_S), _MAX_MESSAGES):
            try:
                found[message.topic] = json.loads(message.payload)
            except (ValueError, RecursionError):
                found[message.topic] = f"{len(message.payload)} bytes that are not JSON"
    yield "retained.json", found


def _doctor(config_path: Path) -> Files:
    # A second model beside a running service could take the memory that it needs.
    reason = "the service runs: health describes its engine" if is_service_active() else None
    lines = ""
    for check in checks(config_path, not_loading=reason):
        lines += line(check if check.name == "model" else replace(check, found=without_value(check.found))) + "\n"
        yield "doctor.txt", lines


def _listing(folder: Path) -> str:
    """Everything in a folder and below it, with owners, modes, sizes and ages. Raises ProgramError."""
    return program_output(("ls", "-lAR", "--time-style=full-iso", "--", str(folder)), 10.0)


def _redacted_bytes(content: Any) -> bytes:
    text = scrubbed(content) if isinstance(content, str) else json.dumps(_redacted(content), indent=1) + "\n"
    return text.encode("utf-8", "backslashreplace")[:_MAX_BYTES]


def _write(path: Path, files: dict[str, bytes], folder: str) -> int:
    """Writes an archive and returns its size. Raises OSError."""
    with private_file(path) as draft:
        with tarfile.open(fileobj=draft, mode="w:gz") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mtime, entry.mode = len(data), time.time(), 0o600
                tar.addfile(entry, io.BytesIO(data))
        return draft.tell()


# Repetitions are bounded because with texts from the bus, the time must not grow with the square of their length.
_CREDENTIALS = {
    r"(?s)-----BEGIN [^\n-]*PRIVATE KEY-----.*?(?:-----END [^\n-]*-----|\Z)": LEFT_OUT,
    r"(?<![^\s/@\"'=])[^\s/@\"'=:]{1,128}:[^\s/@\"']{1,256}@(?=[\w\[])": f"{LEFT_OUT}@",
    r"(?i)((?:password|passwd|pwd|passphrase|secret|(?<!per_)token|(?:api|private)[-_]?key|hmac|nonce)[\"']?\s*[:=]\s*)"
    r"(?:\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\s,;]+)": rf"\g<1>{LEFT_OUT}",
}
# A path may be the secret itself, written into the wrong key.
_SECRET_KEYS = re.compile(r"pass|secret|user|key|hmac|nonce|(?<!per_)token$", re.IGNORECASE)


def scrubbed(text: str) -> str:
    """The text without anything that looks like credentials."""
    for pattern, instead in _CREDENTIALS.items():
        text = re.sub(pattern, instead, text)
    return text


def _redacted(value: Any) -> Any:
    """A JSON value without credentials; a text is left out whole if its key names a secret."""
    if isinstance(value, dict):
        secret = {key for key, inner in value.items() if isinstance(inner, str) and _SECRET_KEYS.search(str(key))}
        return {scrubbed(str(key)): LEFT_OUT if key in secret else _redacted(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(map(_redacted, value))
    return value if value is None or isinstance(value, (bool, int, float)) else scrubbed(str(value))


def without_value(fault: str) -> str:
    """A fault `port: should be … (got …)` without the value."""
    head, found, _ = fault.partition("(got ")
    return f"{head}(got {LEFT_OUT})" if found else fault


_ENTRY = re.compile(r"(?P<head>\S+ \S+ (?P<program>[^\s\[]+)\[\d+\]: )(?P<text>.*)")
# The agent's log as cli.py sets it, the frames of a traceback, and faults that end a start.
_AGENT_LINE = re.compile(
    r"(?:\d{4}-\d\d-\d\dT[\d:+-]+ )?(?:INFO|WARNING|ERROR|CRITICAL) edge_agent\.[\w.]+: .*|"
    r"\s*File \"[^\"]+\", line \d+, in \S+|"
    r"Traceback \(most recent call last\):|(?:edge-agent|/\S+\.toml): .*"
)
_EXCEPTION = re.compile(r"(?P<type>[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning))(?::.*)?")
# Callers choose these values, also names of tasks that do not exist.
_CALLER_VALUE = re.compile(r"\b(id|op|task|topic)=(?:-?\d+|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_QUOTING = re.compile(r"( code=[\w-]+| log=| content=).*")
# llama.cpp's last line says where in its source it ended the process, and which condition failed.
_ABORT = re.compile(r"[\w./+-]+\.(?:c|cpp|h|cu|m):\d+: GGML_ASSERT\([^\n\"']*\) failed")


def safe_log_line(message: str) -> str | None:
    """A line of the service's log without callers' words; None if nothing of it may be kept."""
    if exception := _EXCEPTION.fullmatch(message):
        return f"{exception['type']}: {LEFT_OUT}"
    if not _AGENT_LINE.fullmatch(message):
        return None
    text = _QUOTING.sub(rf"\g<1> {LEFT_OUT}", _CALLER_VALUE.sub(rf"\g<1>={LEFT_OUT}", message))
    return " ".join([without_value(text), *_ABORT.findall(message)])
