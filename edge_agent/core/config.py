"""Types and ranges of the configuration: one pydantic model per TOML table, and Config for all of them."""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from edge_agent import __version__
from edge_agent.core import topics
from edge_agent.core.envelope import MAX_DEADLINE_MS
from edge_agent.core.pipe import ECHO_MODEL, EngineSettings
from edge_agent.core.wording import shown

MAX_HOSTS = 8
# Characters: more than the longest context.
MAX_SYSTEM = 1_000_000
# Characters: Jinja compiles a template of this size in half a second.
MAX_TEMPLATE = 65_536
# `info` describes each task.
MAX_TASKS = 256
BUILT_IN_TASK = "generate"
DEFAULT_TEMPLATE = "{{ input }}"
# Host names of images: fifty boards called "raspberrypi" would take over each other's session.
_UNNAMED_HOSTS = {
    *("localhost", "raspberrypi", "debian", "ubuntu", "orangepi", "orangepi5", "rock-5b", "rock5b", "armbian"),
    *("radxa", "jetson", "tegra-ubuntu", "nvidia", "linux", "pi", "none"),
}
Operation = Literal[
    "ping", "health", "drain", "resume", "cancel", "reload", "model-switch", "model-rollback", "quarantine-release"
]
OPERATIONS: tuple[str, ...] = get_args(Operation)


def _relative_to_config(path: Path, info: ValidationInfo) -> Path:
    if str(path).startswith(ECHO_MODEL):
        return path
    if "\0" in str(path):
        raise ValueError("should be a path without NUL")
    folder: Path = info.context["folder"] if info.context else Path()
    try:
        return folder / path.expanduser()
    except RuntimeError as error:  # `~nobody/…`
        raise ValueError(f"should be a path: {error}") from error


_T = TypeVar("_T")
ConfigPath = Annotated[Path, Field(strict=False), AfterValidator(_relative_to_config)]
Name = Annotated[str, StringConstraints(pattern=topics.NAME_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
TopicFilter = Annotated[str, AfterValidator(lambda text: _refuse(topics.filter_fault(text), text))]


def _refuse(fault: str | None, value: _T) -> _T:
    """The value, if there is no fault."""
    if fault:
        raise ValueError(fault)
    return value


def _check_root(root: str) -> str:
    fault = topics.topic_fault(root)
    if root.startswith(("$", "/")) or root.endswith("/"):
        fault = "a root does not start with '$' or '/' nor end with '/'"
    return _refuse(fault, root)


TopicRoot = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_check_root)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _host_name(value: object) -> object:
    if value is not None:
        return value
    host = socket.gethostname().split(".")[0]
    if host.lower() in _UNNAMED_HOSTS or not re.match(topics.NAME_PATTERN, host):
        raise ValueError(f"required: the host name {shown(host)} does not identify this board")
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
            raise ValueError("requires `cert_file`: it is the key of that certificate")
        return key_file


def _is_host(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable() or not re.fullmatch(r"[^\s/]{1,253}", value):
        return False
    try:
        value.encode("idna")  # the connection does the same, and its error would end the network thread
    except UnicodeError:
        return False
    return True


def _hosts(value: object) -> tuple[str, ...]:
    hosts = value if isinstance(value, list) else [value]
    if not all(map(_is_host, hosts)) or not 1 <= len(hosts) <= MAX_HOSTS or len(set(hosts)) < len(hosts):
        raise ValueError(f"should be a host's name or address, or a list of 1 to {MAX_HOSTS} different ones")
    return tuple(hosts)


class MqttConfig(Table):
    # Tried in turn, from the first one, whenever there is no connection.
    hosts: Annotated[tuple[str, ...], PlainValidator(_hosts)] = Field(default=("localhost",), alias="host")
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    protocol: Literal["5", "3.1.1"] = "5"
    root: TopicRoot = "edgeai/v1"
    username: str | None = None
    password_file: ConfigPath | None = None
    reply_topics: tuple[TopicFilter, ...] | None = Field(default=None, strict=False)
    tls: TlsConfig | None = None
    # None = as the broker says at MQTT 5; an MQTT 3.1.1 broker cannot say it.
    max_packet_bytes: Annotated[int, Field(ge=1024, le=268_435_455)] | None = None

    @property
    def brokers(self) -> str:
        """All hosts with the port, for messages."""
        return ", ".join(f"{host}:{self.effective_port}" for host in self.hosts)

    @property
    def effective_port(self) -> int:
        return self.port or (8883 if self.tls else 1883)


class ModelConfig(Table):
    """canary_interval_s: how often the running model answers its canaries; 0 = never.

    chat_templates: hex SHA-256 of the chat templates that a model may have; None = any.
    """

    path: ConfigPath
    public_key: ConfigPath | None = None
    chat_templates: tuple[Sha256, ...] | None = Field(default=None, strict=False)
    canary_interval_s: Annotated[float, Field(ge=0, le=31_536_000)] = 21600.0


RatePerMinute = Annotated[int, Field(ge=1, le=100_000)]


class QueueConfig(Table):
    capacity: Annotated[int, Field(ge=1, le=10000)] = 64
    default_deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] = 60_000
    dedup_window_s: Annotated[float, Field(ge=0, le=86400)] = 300.0
    max_payload_bytes: Annotated[int, Field(ge=1, le=16_777_216)] = 65536
    drain_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 20.0
    # Per reply topic, so that one caller cannot use up what all callers share.
    rate_per_minute: RatePerMinute | None = None
    # Where requests and answers are kept until they are delivered; in memory they are lost with the agent.
    journal: Literal["disk", "memory"] = "disk"


class TaskBase(Table):
    system: Annotated[str, Field(max_length=MAX_SYSTEM)] | None = None
    template: Annotated[str, Field(max_length=MAX_TEMPLATE)] = DEFAULT_TEMPLATE
    model: Literal["default"] = "default"
    max_tokens: Annotated[int, Field(ge=1, le=32768)] = 256
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    rate_per_minute: RatePerMinute | None = None
    max_payload_bytes: Annotated[int, Field(ge=1, le=16_777_216)] | None = None
    subscribe: tuple[TopicFilter, ...] = Field(default=(), strict=False)
    publish: str | None = None
    keep: Literal["all", "latest"] = "all"

    @field_validator("publish")
    @classmethod
    def _check_publish(cls, publish: str | None, info: ValidationInfo) -> str | None:
        if publish is None or "subscribe" not in info.data:
            return publish
        if not info.data["subscribe"]:
            raise ValueError("requires `subscribe`: it says where answers to those topics go")
        wildcards = min(len(re.findall(r"[+#]", topic_filter)) for topic_filter in info.data["subscribe"])
        return _refuse(topics.publish_pattern_fault(publish, wildcards), publish)


class ClassifyTask(TaskBase):
    kind: Literal["classify"]
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=200, strict=False)]
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.0

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if not all(label.strip() for label in labels) or len(set(labels)) < len(labels):
            raise ValueError("should be distinct and not blank")
        return labels


class ExtractTask(TaskBase):
    kind: Literal["extract"]
    output_schema: dict[str, Any] = Field(alias="schema")


class GenerateTask(TaskBase):
    kind: Literal["generate"]


TaskConfig = Annotated[ClassifyTask | ExtractTask | GenerateTask, Field(discriminator="kind")]
TASK_TABLES: dict[str, type[TaskBase]] = {"classify": ClassifyTask, "extract": ExtractTask, "generate": GenerateTask}


class CommandsConfig(Table):
    allow: tuple[Operation, ...] = Field(default=("ping", "health"), strict=False)
    key_file: ConfigPath | None = None


class BoardConfig(Table):
    root: ConfigPath = Path("/")


class HealthConfig(Table):
    interval_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0


class GovernorConfig(Table):
    """headroom_c: distance to the SoC's limit where the agent slows down. memory_reserve_mb: None = 5 % of memory."""

    enabled: bool = True
    headroom_c: Annotated[float, Field(ge=0.5, le=40)] = 2.0
    memory_reserve_mb: Annotated[float, Field(ge=0, le=1_000_000)] | None = None


class HomeAssistantConfig(Table):
    """enabled: None = publish nothing; False = withdraw what was published before."""

    enabled: bool | None = None
    prefix: TopicRoot = "homeassistant"


class LogConfig(Table):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(Table):
    models_dir: ConfigPath = Path("/var/lib/edge-agent/models")
    state_dir: ConfigPath = Path("/var/lib/edge-agent/state")
    device: DeviceConfig
    mqtt: MqttConfig = MqttConfig()
    models: Annotated[dict[Literal["default"], ModelConfig], Field(min_length=1)]
    engine: EngineSettings = EngineSettings()
    queue: QueueConfig = QueueConfig()
    tasks: Annotated[dict[Name, TaskConfig], Field(max_length=MAX_TASKS)] = Field(default_factory=dict)
    commands: CommandsConfig = CommandsConfig()
    board: BoardConfig = BoardConfig()
    health: HealthConfig = HealthConfig()
    governor: GovernorConfig = GovernorConfig()
    homeassistant: HomeAssistantConfig = HomeAssistantConfig()
    log: LogConfig = LogConfig()

    @property
    def topics(self) -> topics.Topics:
        return topics.Topics(self.mqtt.root, self.device.site, self.device.id)

    @property
    def digest(self) -> bytes:
        """A hash of all values and of the version of the agent."""
        return hashlib.sha256(f"{__version__}\n{self.model_dump_json(warnings=False)}".encode()).digest()

    @property
    def reply_topics(self) -> tuple[str, ...]:
        return self.topics.default_reply_topics if self.mqtt.reply_topics is None else self.mqtt.reply_topics
