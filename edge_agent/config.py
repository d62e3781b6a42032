"""The configuration: one pydantic model per TOML table. `load_config` gives a Config, or every fault at once."""

from __future__ import annotations

import itertools
import re
import socket
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from edge_agent import templates, topics
from edge_agent.engine.schema_grammar import check_schema
from edge_agent.faults import closest, fault_text, field_name, shown
from edge_agent.messages import parse_json

DEFAULT_PATH = Path("/etc/edge-agent/config.toml")
BUILT_IN_TASK = "generate"
# Host names that images ship with: fifty boards called "raspberrypi" would take over each other's session.
UNNAMED_HOSTS = frozenset(
    (
        *("localhost", "raspberrypi", "debian", "ubuntu", "orangepi", "orangepi5", "rock-5b", "rock5b", "armbian"),
        *("radxa", "jetson", "tegra-ubuntu", "nvidia", "linux", "pi", "none"),
    )
)
COMMANDS = ("ping", "health", "drain", "resume", "cancel", "reload")
# Names to come: a configuration that is written for them loads, but nobody is told to use them.
_COMMANDS_TO_COME = ("model-switch", "model-rollback", "quarantine-release")


class ConfigError(Exception):
    """The configuration cannot be used. `faults` names each fault with its key, its value and what is allowed."""

    def __init__(self, path: Path, faults: list[str]) -> None:
        super().__init__(f"{path}: " + "; ".join(faults))
        self.path = path
        self.faults = faults


# Not a file: the deterministic engine that tries every other part without a model (engine/echo.py).
ECHO_MODEL = "echo:"


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    if str(path).startswith(ECHO_MODEL):
        return path
    folder: Path = info.context["folder"] if info.context else Path()
    try:
        return folder / path.expanduser()
    except RuntimeError as error:  # `~nobody/…`
        raise ValueError(f"should be a path: {error}") from error


_T = TypeVar("_T")
_Validated = TypeVar("_Validated", bound=BaseModel)
ConfigPath = Annotated[Path, Field(strict=False), AfterValidator(_from_folder)]
Name = Annotated[str, StringConstraints(pattern=topics.NAME_PATTERN)]
TopicFilter = Annotated[str, AfterValidator(lambda text: _refuse(topics.filter_fault(text), text))]


def _refuse(fault: str | None, value: _T) -> _T:
    if fault:
        raise ValueError(fault)
    return value


def _check_root(root: str) -> str:
    fault = topics.name_fault(root)
    if root.startswith(("$", "/")) or root.endswith("/"):
        fault = "a root does not start with '$' or '/' nor end with '/'"
    return _refuse(fault, root)


# What other topics begin with.
TopicRoot = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_check_root)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _host_name(value: object) -> object:
    if value is not None:
        return value
    host = socket.gethostname().split(".")[0]
    if host.lower() in UNNAMED_HOSTS or not re.match(topics.NAME_PATTERN, host):
        raise ValueError(f"required: the host name {shown(host)} does not tell this board from others")
    return host


class DeviceConfig(Table):
    site: Name
    id: Annotated[Name, BeforeValidator(_host_name)] = Field(default=None, validate_default=True)


class TlsConfig(Table):
    ca_file: ConfigPath | None = None
    cert_file: ConfigPath | None = None
    key_file: ConfigPath | None = None

    @field_validator("key_file")
    @classmethod
    def _check_key_file(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if key_file is not None and info.data.get("cert_file", key_file) is None:
            raise ValueError("only goes with `cert_file`: it is the key of that certificate")
        return key_file


class MqttConfig(Table):
    host: Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[^\s/]+$")] = "localhost"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    protocol: Literal["5", "3.1.1"] = "5"
    root: TopicRoot = "edgeai/v1"
    username: str | None = None
    password_file: ConfigPath | None = None
    reply_topics: tuple[TopicFilter, ...] | None = Field(default=None, strict=False)
    tls: TlsConfig | None = None

    @property
    def effective_port(self) -> int:
        return self.port or (8883 if self.tls else 1883)


class ModelConfig(Table):
    path: ConfigPath
    public_key: ConfigPath | None = None


class EngineConfig(Table):
    """None = calibrated for the board and the model."""

    context_tokens: Annotated[int, Field(ge=256, le=131072)] | None = None
    max_active: Annotated[int, Field(ge=1, le=32)] = 4
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    prefill_threads: Annotated[int, Field(ge=1, le=256)] | None = None
    batch_tokens: Annotated[int, Field(ge=32, le=2048)] | None = None


class QueueConfig(Table):
    capacity: Annotated[int, Field(ge=1, le=10000)] = 64
    # None = from the measured latency of the task (latency.py).
    default_deadline_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    dedup_window_s: Annotated[float, Field(ge=0, le=86400)] = 300.0
    max_payload_bytes: Annotated[int, Field(ge=1, le=16_777_216)] = 65536
    drain_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 20.0


class TaskBase(Table):
    system: str | None = None
    template: str = "{{ input }}"
    model: str = "default"
    max_tokens: Annotated[int, Field(ge=1, le=32768)] = 256
    deadline_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    subscribe: tuple[TopicFilter, ...] = Field(default=(), strict=False)
    publish: str | None = None
    keep: Literal["all", "latest"] = "all"

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        return _refuse(templates.template_fault(template), template)

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str, info: ValidationInfo) -> str:
        models = info.context["models"] if info.context else [model]
        return _refuse(None if model in models else f"allowed are the [models.NAME] tables: {', '.join(models)}", model)

    @field_validator("publish")
    @classmethod
    def _check_publish(cls, publish: str | None, info: ValidationInfo) -> str | None:
        if publish is None or "subscribe" not in info.data:
            return publish
        if not info.data["subscribe"]:
            raise ValueError("only goes with `subscribe`: it says where answers to those topics go")
        wildcards = min(len(re.findall(r"[+#]", topic_filter)) for topic_filter in info.data["subscribe"])
        return _refuse(topics.publish_pattern_fault(publish, wildcards), publish)


class ClassifyTask(TaskBase):
    kind: Literal["classify"]
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=200, strict=False)]
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.0

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if any(not label.strip() for label in labels):
            raise ValueError("labels are non-empty strings")
        if len(set(labels)) < len(labels):
            repeated = sorted({label for label in labels if labels.count(label) > 1})
            raise ValueError(f"labels are distinct; repeated: {shown(repeated)}")
        return labels

    @property
    def names_a_label(self) -> bool:
        """Whether its own text tells the model at least one of the labels."""
        text = f"{self.system or ''} {self.template}".casefold()
        return any(label.casefold() in text for label in self.labels)


def _schema_table(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        path = _from_folder(Path(value), info)
        try:
            value = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"should be a table, or name a JSON file; {path}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"should be a table, or name a JSON file; {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("should be a table, or name a JSON file that holds an object")  # noqa: TRY004 - for pydantic
    return _refuse(check_schema(value), value)


class ExtractTask(TaskBase):
    kind: Literal["extract"]
    output_schema: Annotated[dict[str, Any], BeforeValidator(_schema_table)] = Field(alias="schema")


class GenerateTask(TaskBase):
    kind: Literal["generate"]


TaskConfig = Annotated[ClassifyTask | ExtractTask | GenerateTask, Field(discriminator="kind")]
_TASK_TABLES: dict[str, type[TaskBase]] = {"classify": ClassifyTask, "extract": ExtractTask, "generate": GenerateTask}


def _check_command(name: str) -> str:
    is_known = name in (*COMMANDS, *_COMMANDS_TO_COME)
    return _refuse(None if is_known else f"should be one of {', '.join(COMMANDS)}", name)


class CommandsConfig(Table):
    allow: tuple[Annotated[str, AfterValidator(_check_command)], ...] = Field(default=("ping", "health"), strict=False)
    key_file: ConfigPath | None = None

    @property
    def enabled(self) -> tuple[str, ...]:
        """Those of `allow` that this version has."""
        return tuple(name for name in self.allow if name in COMMANDS)


class BoardConfig(Table):
    root: ConfigPath = Path("/")


class HealthConfig(Table):
    interval_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0


class GovernorConfig(Table):
    """headroom_c: how far below the SoC's limit it slows down. memory_reserve_mb: None = 5 % of the memory."""

    enabled: bool = True
    headroom_c: Annotated[float, Field(ge=0.5, le=40)] = 2.0
    memory_reserve_mb: Annotated[float, Field(ge=0, le=1_000_000)] | None = None


class HomeAssistantConfig(Table):
    """enabled: None = nothing is said to Home Assistant; False = what was said before is taken back."""

    enabled: bool | None = None
    prefix: TopicRoot = "homeassistant"


class LogConfig(Table):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(Table):
    models_dir: ConfigPath = Path("/var/lib/edge-agent/models")
    state_dir: ConfigPath = Path("/var/lib/edge-agent/state")
    device: DeviceConfig
    mqtt: MqttConfig = MqttConfig()
    models: Annotated[dict[Name, ModelConfig], Field(min_length=1)]
    engine: EngineConfig = EngineConfig()
    queue: QueueConfig = QueueConfig()
    tasks: dict[Name, TaskConfig] = Field(default_factory=dict)
    commands: CommandsConfig = CommandsConfig()
    board: BoardConfig = BoardConfig()
    health: HealthConfig = HealthConfig()
    governor: GovernorConfig = GovernorConfig()
    homeassistant: HomeAssistantConfig = HomeAssistantConfig()
    log: LogConfig = LogConfig()

    @property
    def topics(self) -> topics.Topics:
        return topics.Topics(self.mqtt.root, self.device.site, self.device.id)

    def hints(self) -> list[str]:
        """What is no fault, but likely not meant."""
        hints = [
            f"{field_name(('tasks', name, 'labels'))}: neither `system` nor `template` names one; "
            "the model answers better if it is told what to choose from"
            for name, task in self.tasks.items()
            if isinstance(task, ClassifyTask) and not task.names_a_label
        ]
        return hints + [
            f"commands.allow[{number}]: this version has no command {name}, and refuses it as unknown_command; "
            f"it has {', '.join(COMMANDS)}"
            for number, name in enumerate(self.commands.allow)
            if name not in COMMANDS
        ]

    @property
    def reply_topics(self) -> tuple[str, ...]:
        return self.topics.default_reply_topics if self.mqtt.reply_topics is None else self.mqtt.reply_topics


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
        faults = faults + [fault for e in error.errors(include_url=False) for fault in _faults(e, raw, context)]
        raise ConfigError(path, faults) from error
    if faults:
        raise ConfigError(path, faults)
    return found


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
        return path.read_bytes().decode()
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
    if location[0] == "tasks" and len(location) > 2 and location[2] in _TASK_TABLES:
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
        yield f"{name}.kind: should be one of {', '.join(_TASK_TABLES)} (got {shown(kind)})"
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
        model = _TASK_TABLES[raw["tasks"][table[1]]["kind"]]
    elif table[:1] == ("models",):
        model = ModelConfig
    else:
        for part in table:
            annotation = model.model_fields[str(part)].annotation
            model = TlsConfig if annotation == TlsConfig | None else annotation  # type: ignore[assignment]
    return [field.alias or name for name, field in model.model_fields.items()]
