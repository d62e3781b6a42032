"""Reads the document of a configuration file, and words the faults that pydantic finds in it."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edge_agent.core.config import Config, ModelConfig, PoolConfig, TlsConfig
from edge_agent.core.files import TooLongError, read_bounded
from edge_agent.core.kinds.classify import ScoreMapTable
from edge_agent.core.kinds.registry import KINDS
from edge_agent.core.kinds.task import Example
from edge_agent.core.signal_tables import SignalsTable, TriggerTable, ValueTable
from edge_agent.core.strict_json import parse_json
from edge_agent.core.wording import fault_text, field_name, shown

_MAX_BYTES = 10_000_000


class ConfigError(Exception):
    """The configuration cannot be used. Each of `faults` names the key, its value and what is allowed."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        super().__init__(f"{path}: " + "; ".join(faults))
        self.path = path
        self.faults = faults


def read_document(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(_read_text(path))
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: absurd numbers, absurd nesting
        raise ConfigError(path, [f"is not TOML: {error}"]) from error


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises ConfigError."""
    try:
        return parse_json(_read_text(path))
    except ValueError as error:
        raise ConfigError(path, [f"is not JSON: {error}"]) from error


def _read_text(path: Path) -> str:
    try:
        return read_bounded(path, _MAX_BYTES).decode("utf-8-sig")
    except TooLongError as error:
        raise ConfigError(path, [str(error)]) from error
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"is not UTF-8: {error.reason} at byte {error.start}"]) from error


def table_faults(error: ValidationError, raw: dict[str, Any]) -> list[str]:
    return [_words(details, raw) for details in error.errors(include_url=False)]


def _words(error: ErrorDetails, raw: dict[str, Any]) -> str:
    location = error["loc"]
    if location[0] == "tasks" and len(location) > 2 and location[2] in KINDS:
        location = (*location[:2], *location[3:])  # pydantic names the kind of the task, which is no key
    if location[-1] == "[key]":
        location = location[:-1]  # the name of the table itself is wrong
    name = field_name(location)
    if error["type"] == "extra_forbidden":
        allowed = _allowed_keys(location[:-1], raw)
        return f"{name}: unknown key (got {shown(error['input'])}); allowed: {', '.join(sorted(allowed))}"
    if error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        table = error["input"]
        if isinstance(table, dict) and "kind" not in table:
            return f"{name}.kind: required, but missing; should be one of {', '.join(KINDS)}"
        kind = table["kind"] if isinstance(table, dict) else table
        return f"{name}.kind: should be one of {', '.join(KINDS)} (got {shown(kind)})"
    return fault_text(error, name)


def _allowed_keys(table: tuple[int | str, ...], raw: dict[str, Any]) -> list[str]:
    model: Any = Config
    match table:
        case ("tasks", name):
            model = KINDS[raw["tasks"][name]["kind"]]
        case ("tasks", _, "score_map"):
            model = ScoreMapTable
        case ("tasks", _, "examples", _):
            model = Example
        case ("signals", _):
            model = SignalsTable
        case ("signals", _, "values", _):
            model = ValueTable
        case ("signals", _, "trigger"):
            model = TriggerTable
        case ("models", _):
            model = ModelConfig
        case ("mqtt", "tls"):
            model = TlsConfig
        case ("pool",):
            model = PoolConfig
        case (name,):
            model = Config.model_fields[str(name)].annotation
    return [field.alias or name for name, field in model.model_fields.items()]
