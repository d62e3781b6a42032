"""Reads a configuration: a Config, or every fault of the file at once, in the words of who wrote it."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from edge_agent.core import topics
from edge_agent.core.config import (
    BUILT_IN_TASK,
    TASK_TABLES,
    Config,
    DeviceConfig,
    ModelConfig,
    MqttConfig,
    Name,
    TaskBase,
    TaskConfig,
    TlsConfig,
)
from edge_agent.core.errors import closest, fault_text, field_name, shown
from edge_agent.core.strict_json import parse_json

_MAX_BYTES = 10_000_000
_MAX_FILTERS, _MAX_FAULTS = 1000, 100
DEFAULT_PATH = Path("/etc/edge-agent/config.toml")
_Validated = TypeVar("_Validated", bound=BaseModel)


class ConfigError(Exception):
    """The configuration cannot be used. `faults` names each fault with its key, its value and what is allowed."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        super().__init__(f"{path}: " + "; ".join(faults))
        self.path = path
        self.faults = faults


def load_config(path: Path) -> Config:
    """Reads and checks a configuration file.

    Raises ConfigError naming every fault: unreadable, not TOML, unknown keys, wrong values, tasks that clash.
    """
    raw = _read_toml(path)
    tasks = _task_tables(raw)
    models = list(_below(raw, "models"))
    # What goes together is checked beside pydantic, which asks only after everything else is right: one round for all.
    faults = [*_built_in_faults(tasks), *_models_faults(models), *_topics_faults(tasks, raw)]
    context = {"folder": path.absolute().parent, "models": models}
    return _validated(Config, raw, context, path, faults)


class _TasksOnly(BaseModel):
    """What else a configuration holds is not looked at."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]


def load_task_configs(path: Path) -> dict[str, TaskConfig]:
    """The `[tasks.NAME]` tables of a configuration, whatever else it holds or lacks; a `.json` holds them by name.

    Raises ConfigError naming every fault.
    """
    raw = {"tasks": _read_json(path)} if path.suffix == ".json" else _read_toml(path)
    tasks = _task_tables(raw)
    faults = [*_built_in_faults(tasks)]
    models = [name for task in tasks.values() if isinstance(name := task.get("model", "default"), str)]
    context = {"folder": path.absolute().parent, "models": models}
    return _validated(_TasksOnly, raw, context, path, faults).tasks


def _validated(
    model: type[_Validated], raw: dict[str, Any], context: dict[str, Any], path: Path, faults: list[str]
) -> _Validated:
    """Raises ConfigError with these faults and those that the model finds."""
    try:
        found = model.model_validate(raw, context=context)
    except ValidationError as error:
        found_too = (fault for e in error.errors(include_url=False) for fault in _faults(e, raw, context))
        faults = [*faults, *itertools.islice(found_too, _MAX_FAULTS + 1)]
        raise ConfigError(path, _readable(faults)) from error
    if faults:
        raise ConfigError(path, _readable(faults))
    return found


def _readable(faults: list[str]) -> list[str]:
    return faults if len(faults) <= _MAX_FAULTS else [*faults[:_MAX_FAULTS], "has more faults than are told here"]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read_text(path))
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: absurd numbers, absurd nesting
        raise ConfigError(path, [f"is not TOML: {error}"]) from error


def _read_json(path: Path) -> Any:
    try:
        return parse_json(_read_text(path))
    except ValueError as error:
        raise ConfigError(path, [f"is not JSON: {error}"]) from error


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(path, [f"should have at most {_MAX_BYTES} bytes"])
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"is not UTF-8: {error.reason} at byte {error.start}"]) from error


def _task_tables(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: task for name, task in _below(raw, "tasks").items() if isinstance(task, dict)}


def _below(raw: dict[str, Any], key: str) -> dict[str, Any]:
    """What stands in a table; that it is none is pydantic's to say."""
    table = raw.get(key)
    return table if isinstance(table, dict) else {}


def _built_in_faults(tasks: dict[str, dict[str, Any]]) -> Iterator[str]:
    built_in = tasks.get(BUILT_IN_TASK)
    if built_in is not None and built_in.setdefault("kind", "generate") != "generate":
        yield f'tasks.{BUILT_IN_TASK}.kind: should be "generate" (got {shown(built_in["kind"])})'


def _models_faults(models: list[str]) -> Iterator[str]:
    if models and models != ["default"]:
        yield f"models: one model is supported, and its table is [models.default] (got {shown(models)})"


def _own_requests(raw: dict[str, Any]) -> str | None:
    """The filter of the agent's own requests; None while one of the keys that it is made of is wrong."""
    device, mqtt = raw.get("device"), raw.get("mqtt", {})
    try:
        device = DeviceConfig.model_validate(_only(device, ("site", "id")))
        mqtt = MqttConfig.model_validate(_only(mqtt, ("root",)))
    except ValidationError:
        return None
    return topics.Topics(mqtt.root, device.site, device.id).all_requests


def _only(table: object, keys: Iterable[str]) -> object:
    return {key: table[key] for key in keys if key in table} if isinstance(table, dict) else table


def _filters(tasks: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Each filter that is right, and the key that names it first: the same one may serve several tasks."""
    filters: dict[str, str] = {}
    for name, task in tasks.items():
        given = task.get("subscribe")
        for number, text in enumerate(given if isinstance(given, list) else ()):
            if isinstance(text, str) and topics.filter_fault(text) is None:
                filters.setdefault(text, field_name(("tasks", name, "subscribe", number)))
    return filters


def _topics_faults(tasks: dict[str, dict[str, Any]], raw: dict[str, Any]) -> Iterator[str]:
    """Where tasks would hear each other, themselves or the agent's own requests."""
    filters = _filters(tasks)
    if len(filters) > _MAX_FILTERS:  # each is compared with each
        yield f"tasks: should `subscribe` to at most {_MAX_FILTERS} filters in all (got {len(filters)})"
        return
    for name, task in tasks.items():
        publish = task.get("publish")
        answer = topics.sample_of_publish_pattern(publish) if isinstance(publish, str) else ""
        readers = [key for text, key in filters.items() if answer and topics.matches(text, answer)]
        if readers:
            reason = f"its answers would be readings of {', '.join(readers)}; use another topic"
            yield f"{field_name(('tasks', name, 'publish'))}: {reason} (got {shown(publish)})"
    # A broker may deliver a message once for each filter that it falls under: it would be answered as often.
    requests = _own_requests(raw)
    for text, key in filters.items():
        if requests and topics.overlap(text, requests):
            yield f"{key}: overlaps {requests}, where requests come; use other topics (got {shown(text)})"
    for (one, owner), (other, key) in itertools.combinations(filters.items(), 2):
        if topics.overlap(one, other):
            rule = "use the same filter, or separate ones"
            yield f"{key}: overlaps {shown(one)} of {owner}; {rule} (got {shown(other)})"


def _faults(error: ErrorDetails, raw: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
    location = error["loc"]
    if location[0] == "tasks" and len(location) > 2 and location[2] in TASK_TABLES:
        location = (*location[:2], *location[3:])  # the branch of the union is not a key
    if location[-1] == "[key]":
        location = location[:-1]  # the fault is in the name itself
    name = field_name(location)
    if error["type"] == "extra_forbidden":
        allowed = _allowed_keys(location[:-1], raw)
        close = closest(str(location[-1]), allowed)
        hint = f"did you mean `{close}`? " if close else ""
        rule = f"{hint}allowed: {', '.join(sorted(allowed))}"
        yield f"{name}: unknown key (got {shown(error['input'])}); {rule}"
    elif error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        kind = error["input"].get("kind") if isinstance(error["input"], dict) else error["input"]
        yield f"{name}.kind: should be one of {', '.join(TASK_TABLES)} (got {shown(kind)})"
        yield from _common_faults(error["input"], name, context)
    else:
        yield fault_text(error, name)


def _common_faults(task: object, name: str, context: dict[str, Any]) -> Iterator[str]:
    """What is wrong in a task of no known kind with the keys that tasks of every kind have."""
    if not isinstance(task, dict):
        return
    try:
        TaskBase.model_validate(_only(task, TaskBase.model_fields), context=context)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            yield fault_text(details, f"{name}.{field_name(details['loc'])}")


def _allowed_keys(table: tuple[int | str, ...], raw: dict[str, Any]) -> list[str]:
    model: type[BaseModel] = Config
    if table[:1] == ("tasks",):
        model = TASK_TABLES[raw["tasks"][table[1]]["kind"]]
    elif table[:1] == ("models",):
        model = ModelConfig
    else:
        for part in table:
            annotation = model.model_fields[str(part)].annotation
            model = TlsConfig if annotation == TlsConfig | None else annotation  # type: ignore[assignment]
    return [field.alias or name for name, field in model.model_fields.items()]
