"""The configuration as it is written, without what must not leave the board; also of a broken file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edge_agent.core.config import TASK_TABLES, Config, ModelConfig, TlsConfig
from edge_agent.core.config_file import ConfigError
from edge_agent.loader import config_hints, file_faults
from edge_agent.tools.diag.facts import file_facts, head
from edge_agent.tools.diag.part import Part
from edge_agent.tools.diag.redaction import LEFT_OUT, scrubbed_value, without_value

_FILES = {"password_file", "key_file", "cert_file", "ca_file"}
_MAX_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def configuration(part: Part, path: Path, config: Config | ConfigError) -> None:
    """config: what the loader returned or raised for this file."""
    document: dict[str, Any] = {"path": str(path), "file": file_facts(path)}
    if isinstance(config, ConfigError):
        document["faults"] = list(map(without_value, config.faults))
        part.left_out.append("values that the faults quote")
    else:
        document["faults"] = list(map(without_value, file_faults(config)))
        document["hints"] = list(map(without_value, config_hints(config)))
    folder = path.absolute().parent
    try:
        raw = tomllib.loads(head(path, _MAX_BYTES).removeprefix("\ufeff"))
    except OSError as error:
        part.add_missing(f"the configuration: {error.strerror}")
    except (ValueError, RecursionError):
        part.left_out.append("the configuration: the file is no TOML, so its secrets cannot be told from the rest")
    else:
        document["as_written"] = redacted(raw, folder)
        document["files"] = dict(_named_files(raw, folder))
        part.left_out.append("contents of the files that it names, mqtt.username, and values of unknown keys")
    part.add_json("configuration.json", document)


def redacted(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tables with the values of known keys. folder: where relative paths start."""
    known = _known_keys()
    return {
        **dict(_redacted_table({key: raw[key] for key in raw if key not in ("models", "tasks")}, known, folder)),
        **{
            key: {name: dict(_redacted_table(table, known, folder)) for name, table in _tables(raw[key])}
            for key in ("models", "tasks")
            if key in raw
        },
    }


def _tables(value: object) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, table in value.items() if isinstance(value, dict) else ():
        if _NAME.fullmatch(name) and isinstance(table, dict):
            yield name, table


def _redacted_table(table: dict[str, Any], known: set[str], folder: Path) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if key not in known:
            yield key if _NAME.fullmatch(key) else LEFT_OUT, f"{LEFT_OUT}: unknown key"
        elif key == "username":
            yield key, LEFT_OUT
        elif key in _FILES:
            yield key, _redacted_path(value, folder)
        elif isinstance(value, dict) and key != "schema":
            yield key, dict(_redacted_table(value, known, folder))
        else:
            yield key, scrubbed_value(value)


def _known_keys() -> set[str]:
    """Every key of the configuration, in whichever table it belongs."""
    tables = [field.annotation for field in Config.model_fields.values()]
    models: list[type[BaseModel]] = [Config, ModelConfig, TlsConfig, *TASK_TABLES.values()]
    models += [table for table in tables if isinstance(table, type) and issubclass(table, BaseModel)]
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _redacted_path(value: object, folder: Path) -> str:
    """A file that does not exist may be the secret itself, written into the wrong key."""
    try:
        exists = isinstance(value, str) and (folder / value).exists()
    except (OSError, ValueError):
        exists = False
    return str(value) if exists else f"{LEFT_OUT}: no such file"


def _named_files(raw: dict[str, Any], folder: Path) -> Iterator[tuple[str, Any]]:
    """Owner, mode and age of the files that are named, without their length, which may be that of a secret."""
    mqtt = raw.get("mqtt")
    tables = {"mqtt": mqtt, "commands": raw.get("commands")}
    tables["mqtt.tls"] = mqtt.get("tls") if isinstance(mqtt, dict) else None
    for name, table in tables.items():
        if not isinstance(table, dict):
            continue
        for key in sorted(_FILES & table.keys()):
            facts = file_facts(folder / str(table[key]))
            yield f"{name}.{key}", {fact: value for fact, value in facts.items() if fact != "bytes"}
