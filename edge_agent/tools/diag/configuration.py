"""The configuration as it is written, without what must not leave the board; also of a file that is broken."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edge_agent.core.config import TASK_TABLES, Config, ModelConfig, TaskBase, TlsConfig
from edge_agent.core.config_file import ConfigError
from edge_agent.loader import config_hints, file_faults
from edge_agent.tools.diag.files import facts
from edge_agent.tools.diag.part import Part
from edge_agent.tools.diag.redaction import LEFT_OUT, scrubbed_value, without_value

# Who signs in is half of how one does.
_SECRETS = {"username"}
_FILES = {"password_file", "key_file", "cert_file", "ca_file"}
_SECRET_FILES = {"password_file", "key_file"}
_MOST_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TABLES = ("device", "mqtt", "models", "engine", "queue", "tasks", "commands", "board", "health", "governor")
_HEADER = re.compile(rf"\s*\[((?:{'|'.join((*_TABLES, 'homeassistant', 'log'))})(?:\.[A-Za-z0-9_-]{{1,64}})*)\]")
_KEY = re.compile(r"\s*([a-z_]{1,32})\s*=")


def configuration(part: Part, path: Path, config: Config | ConfigError) -> None:
    """config: what the loader made of the file."""
    document: dict[str, Any] = {"path": str(path), "file": facts(path)}
    if isinstance(config, ConfigError):
        document["faults"] = [without_value(fault) for fault in config.faults]
        part.leaves_out("values that the faults quote")
    else:
        document["faults"] = [without_value(fault) for fault in file_faults(config)]
        hints = config_hints(config)
        document["hints"] = [without_value(hint) for hint in hints]
    part.document("configuration.json", document)
    text = _read(part, path)
    if text is None:
        return
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError):
        part.text("configuration-shape.txt", "".join(f"{line}\n" for line in shape(text)))
        part.leaves_out("all values: the file is no TOML, so that nobody knows which of them are secrets")
        return
    document["as_written"] = redacted(raw, path.absolute().parent)
    document["files"] = dict(_named_files(raw, path.absolute().parent))
    part.document("configuration.json", document)
    part.leaves_out("contents of the files that it names, mqtt.username, and values of unknown keys")


def _read(part: Part, path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8-sig", "replace")
    except OSError as error:
        part.misses(f"the configuration: {error.strerror}")
        return None


def redacted(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a configuration says, key by known key. folder: where its relative paths start."""
    return dict(_table(raw, Config, folder))


def _table(raw: dict[str, Any], model: type[BaseModel], folder: Path) -> Iterator[tuple[str, Any]]:
    keys = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in raw.items():
        if key not in keys:
            yield key if _NAME.fullmatch(key) else LEFT_OUT, f"{LEFT_OUT}: unknown key"
        elif key in _SECRETS:
            yield key, LEFT_OUT
        elif key in _FILES:
            yield key, _path(value, folder)
        elif key in ("models", "tasks") and model is Config:
            yield key, dict(_named_tables(value, key, folder)) if isinstance(value, dict) else LEFT_OUT
        elif (nested := _nested(keys[key].annotation)) is not None:
            yield key, dict(_table(value, nested, folder)) if isinstance(value, dict) else LEFT_OUT
        else:
            yield key, scrubbed_value(value)


def _nested(annotation: object) -> type[BaseModel] | None:
    if annotation == TlsConfig | None:
        return TlsConfig
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _named_tables(raw: dict[str, Any], key: str, folder: Path) -> Iterator[tuple[str, Any]]:
    for name, table in raw.items():
        if not isinstance(table, dict):
            yield name, LEFT_OUT
            continue
        model: type[BaseModel] = ModelConfig
        if key == "tasks":
            kind = table.get("kind", "generate")
            model = TASK_TABLES.get(kind, TaskBase) if isinstance(kind, str) else TaskBase
        yield name, dict(_table(table, model, folder))


def _path(value: object, folder: Path) -> str:
    """A file that is not there may be the secret itself, written into the wrong key."""
    if not isinstance(value, str):
        return LEFT_OUT
    try:
        is_there = (folder / value).exists()
    except (OSError, ValueError):
        is_there = False
    return value if is_there else f"{LEFT_OUT}: no such file"


def _named_files(raw: dict[str, Any], folder: Path) -> Iterator[tuple[str, Any]]:
    """Who may read them and how old they are; of secrets not how long."""
    mqtt = raw.get("mqtt")
    tables = {"mqtt": mqtt, "commands": raw.get("commands")}
    tables["mqtt.tls"] = mqtt.get("tls") if isinstance(mqtt, dict) else None
    for name, table in tables.items():
        if not isinstance(table, dict):
            continue
        for key in sorted(_FILES & set(table)):
            if isinstance(table[key], str):
                found = facts(folder / table[key])
                if key in _SECRET_FILES:
                    found.pop("bytes", None)
                yield f"{name}.{key}", found


def shape(text: str) -> Iterator[str]:
    """Headers and known keys of a file that is no TOML, without any value."""
    known = {key for model in _models() for key in (f.alias or n for n, f in model.model_fields.items())}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            yield f"[{header[1]}]"
        elif (key := _KEY.match(line)) and key[1] in known:
            yield f"{key[1]} = {LEFT_OUT}"
        else:
            yield LEFT_OUT if line.strip() else ""


def _models() -> Iterator[type[BaseModel]]:
    known: list[type[BaseModel]] = [Config, ModelConfig, TlsConfig, *TASK_TABLES.values()]
    yield from known
    for field in Config.model_fields.values():
        if (nested := _nested(field.annotation)) is not None:
            yield nested
