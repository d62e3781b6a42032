"""Types and ranges of the configuration: one pydantic model per TOML table, and Config for all of them.

The text below a key describes it: in the JSON Schema, in docs/configuration.md and in the file that `init` writes.
A new key also has a value in `_EXAMPLE` of docs/generate.py; a new table that a reload applies is in `LIVE_TABLES` of
commands/commands.py.
"""

import hashlib
import re
import socket
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from edge_agent import __version__
from edge_agent.core import topics
from edge_agent.core.envelope import MAX_DEADLINE_MS
from edge_agent.core.kinds.registry import TaskConfig
from edge_agent.core.pipe import EngineSettings, is_echo
from edge_agent.core.signal_tables import SignalsTable
from edge_agent.core.table import RatePerMinute, Table, TopicFilter, checked
from edge_agent.core.topics import TaskTopics
from edge_agent.core.wording import shown

MAX_HOSTS = 8
MAX_PUBLIC_KEYS = 4
# `info` describes each task.
MAX_TASKS = 256
MAX_SIGNALS = 64
# Host names of images: fifty boards called "raspberrypi" would take over each other's session.
_UNNAMED_HOSTS = {
    *("localhost", "raspberrypi", "debian", "ubuntu", "orangepi", "orangepi5", "rock-5b", "rock5b", "armbian"),
    *("radxa", "jetson", "tegra-ubuntu", "nvidia", "linux", "pi", "none"),
}
Operation = Literal[
    "ping",
    "health",
    "drain",
    "resume",
    "cancel",
    "reload",
    "model-switch",
    "model-rollback",
    "quarantine-release",
    "feedback-export",
]
OPERATIONS: tuple[str, ...] = get_args(Operation)


def _relative_to_config(path: Path, info: ValidationInfo) -> Path:
    if is_echo(path):
        return path
    if "\0" in str(path):
        raise ValueError("should be a path without NUL")
    folder: Path = info.context["folder"] if info.context else Path()
    try:
        return folder / path.expanduser()
    except RuntimeError as error:  # `~nobody/…`
        raise ValueError(f"should be a path: {error}") from error


ConfigPath = Annotated[Path, Field(strict=False), AfterValidator(_relative_to_config)]
Name = Annotated[str, StringConstraints(pattern=topics.NAME_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _check_root(root: str) -> str:
    fault = topics.topic_fault(root)
    if root.startswith(("$", "/")) or root.endswith("/"):
        fault = "a root must not start with '$' or '/', or end with '/'"
    return checked(fault, root)


TopicRoot = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_check_root)]


def _host_name(value: object) -> object:
    if value is not None:
        return value
    host = socket.gethostname().split(".")[0]
    if host.lower() in _UNNAMED_HOSTS or not re.match(topics.NAME_PATTERN, host):
        raise ValueError(f"required: the host name {shown(host)} does not identify this board")
    return host


class DeviceConfig(Table):
    """The board's name on the bus: its topics begin with `<root>/<site>/<id>/`."""

    site: Name
    """The site that the board belongs to."""
    id: Annotated[Name, BeforeValidator(_host_name)] = Field(default=None, validate_default=True)
    """The board, unique within the site. Default: the host name up to the first dot, unless it is one that images come
    with, such as `raspberrypi`."""


class TlsConfig(Table):
    """The presence of this table turns TLS on. The broker's certificate is always verified.

    The files are read again at each connection.
    """

    ca_file: ConfigPath | None = None
    """Certificates to trust, in PEM. Default: the system's."""
    cert_file: ConfigPath | None = None
    """The board's own certificate, in PEM. Default: none."""
    key_file: ConfigPath | None = None
    """The key of `cert_file`, in PEM. Default: it is in `cert_file`."""

    @field_validator("key_file")
    @classmethod
    def _check_key_file(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if key_file is not None and info.data.get("cert_file", key_file) is None:
            raise ValueError("requires `cert_file`: it is the key of that certificate")
        return key_file


def _is_host(value: object) -> bool:
    if not isinstance(value, str) or not value.isprintable() or not re.fullmatch(r"[^\s/]{1,253}", value):
        return False
    if re.fullmatch(r"[^:]*:\d*", value):  # an address of IPv6 has more colons
        return False
    try:
        value.encode("idna")  # the connection does the same, and its error would end the network thread
    except UnicodeError:
        return False
    return True


_HOST = {"type": "string", "minLength": 1, "maxLength": 253}


def _hosts(value: object) -> tuple[str, ...]:
    hosts = value if isinstance(value, list) else [value]
    if not all(map(_is_host, hosts)) or not 1 <= len(hosts) <= MAX_HOSTS or len(set(hosts)) < len(hosts):
        raise ValueError(
            f"should be a host's name or address, without a port, or a list of 1 to {MAX_HOSTS} different ones"
        )
    return tuple(hosts)


class MqttConfig(Table):
    """The broker, and how the board connects to it."""

    hosts: Annotated[
        tuple[str, ...],
        PlainValidator(_hosts),
        WithJsonSchema({"anyOf": [_HOST, {"type": "array", "items": _HOST, "minItems": 1, "maxItems": MAX_HOSTS}]}),
    ] = Field(default=("localhost",), alias="host", json_schema_extra={"default": "localhost"})
    """The broker's name or address, or a list of brokers that share their messages, such as a cluster. They are tried
    in turn, starting with the first after each lost connection."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The broker's port. Default: 1883, or 8883 with TLS."""
    protocol: Literal["5", "3.1.1"] = "5"
    """The MQTT version."""
    root: TopicRoot = "edgeai/v1"
    """The beginning of all topics."""
    username: str | None = None
    """The user name at the broker. Default: none."""
    password_file: ConfigPath | None = None
    """A file that holds the user's password; read again at each connection. Default: none."""
    reply_topics: tuple[TopicFilter, ...] | None = Field(default=None, strict=False)
    """Topic filters to which callers may have replies sent. Default: `<root>/<site>/<id>/infer/+/response/#`, the
    pool's equivalent, and `<root>/reply/#`."""
    tls: TlsConfig | None = None
    max_packet_bytes: Annotated[int, Field(ge=1024, le=268_435_455)] | None = None
    """The largest packet that the broker accepts, which an MQTT 3.1.1 broker cannot announce. Default: what an MQTT 5
    broker announces, otherwise no limit."""

    @property
    def brokers(self) -> str:
        """All hosts with the port, for messages."""
        return ", ".join(f"{host}:{self.effective_port}" for host in self.hosts)

    @property
    def effective_port(self) -> int:
        return self.port or (8883 if self.tls else 1883)


class PoolConfig(Table):
    """Requests that this board shares with other boards (docs/pool.md). `[mqtt]` then names RabbitMQ.

    The board takes them from RabbitMQ by AMQP, with the hosts, user, password and certificates of `[mqtt]`. All boards
    of a pool have the same tasks. A change needs a restart.
    """

    name: Name
    """The pool. Requests come to `<root>/<site>/pool/<name>/infer/<task>/request`."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The broker's port for AMQP. Default: 5672, or 5671 with TLS."""
    virtual_host: Annotated[str, StringConstraints(min_length=1, max_length=255)] = "/"
    """RabbitMQ's virtual host, the same as for MQTT."""


class ModelConfig(Table):
    """The model that answers."""

    path: ConfigPath
    """A bundle's folder as `edge-convert` writes it, or a `.gguf` file, of Qwen2, Qwen2.5 or DeepSeek-R1-Distill-Qwen.
    `echo:` is a test model without weights: everything works, but the answers mean nothing."""
    public_key: ConfigPath | None = None
    """An Ed25519 public key in PEM: only bundles signed with its private key open. Default: any bundle and any `.gguf`
    opens."""
    public_keys: Annotated[tuple[ConfigPath, ...], Field(min_length=1, max_length=MAX_PUBLIC_KEYS)] | None = Field(
        default=None, strict=False
    )
    """Several keys instead of `public_key`: a bundle signed for any of them opens, so that a new key can replace an old
    one. Default: none."""
    revocations: ConfigPath | None = None
    """A signed list of bundles and keys that must no longer be used (docs/security.md), with its signature next to it
    as `<file>.sig`. It is read at a start, at a switch and every minute. Needs `public_key` or `public_keys`.
    Default: none."""
    chat_templates: tuple[Sha256, ...] | None = Field(default=None, strict=False)
    """SHA-256 (hex) of the chat templates that a model may have. Default: any."""
    canary_interval_s: Annotated[float, Field(ge=0, le=31_536_000)] = 21600.0
    """How often, in seconds, the running model is asked its canaries while no request runs. 0 means never."""

    @field_validator("public_keys")
    @classmethod
    def _check_public_keys(cls, keys: tuple[Path, ...] | None, info: ValidationInfo) -> tuple[Path, ...] | None:
        if keys is not None and info.data.get("public_key") is not None:
            raise ValueError("should include the key of `public_key`: use only one of the two")
        return keys

    @field_validator("revocations")
    @classmethod
    def _check_revocations(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and all(info.data.get(key, file) is None for key in ("public_key", "public_keys")):
            raise ValueError("requires `public_key` or `public_keys`, because the list is signed too")
        return file

    @property
    def key_files(self) -> dict[str, Path]:
        """The files of the public keys, by the field that names each."""
        if self.public_key is not None:
            return {"public_key": self.public_key}
        return {f"public_keys[{number}]": file for number, file in enumerate(self.public_keys or ())}


class QueueConfig(Table):
    """Which requests are admitted, and how they wait."""

    capacity: Annotated[int, Field(ge=1, le=10000)] = 64
    """How many requests may wait. Any more get `busy`/`queue_full`, or `busy`/`loading` until the model is loaded."""
    default_deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] = 60_000
    """The deadline of requests for which neither they nor their task set one."""
    dedup_window_s: Annotated[float, Field(ge=0, le=86400)] = 300.0
    """For how long an equal request counts as a repetition, and gets the first one's answer."""
    max_payload_bytes: Annotated[int, Field(ge=1, le=16_777_216)] = 65536
    """The largest payload of a request. A larger one is `invalid`/`too_long`."""
    drain_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 20.0
    """How long a stop and `cmd/drain` wait for running requests before they cancel them."""
    rate_per_minute: RatePerMinute | None = None
    """How many requests per minute are accepted for each reply topic, so that one caller cannot use up what all share.
    Each request that reaches its template counts, however it ends. Default: no limit."""
    journal: Literal["disk", "memory"] = "disk"
    """Where requests and answers are kept until they are delivered. In memory they end with the agent."""


class FeedbackConfig(Table):
    """What callers say about answers of `classify`: the board learns from it, and measures how often it is right. Of
    `estimate`: the true number, with which the board compares its answer. Of `unusual`: what a reading was."""

    enabled: bool = False
    """`true`: answers are kept in `state_dir`, and feedback is taken on `<base>/infer/<task>/feedback`. `false`:
    whatever was kept is deleted at the next start or reload."""
    keep: Annotated[int, Field(ge=100, le=10_000)] = 1000
    """How many of each task's answers without feedback are kept, as many with it, and as many open audits. The oldest
    go first."""
    drift_answers: Annotated[int, Field(ge=200, le=3333)] = 200
    """How many of a task's newest answers the alarm `input-drift` compares with as many older ones: as many as come in
    the plant's longest cycle, such as a day, or more. `keep` must be at least three times as many."""
    days: Annotated[float, Field(gt=0, le=3650)] = 90.0
    """The longest time for which an answer is kept, in days."""
    unanswered_days: Annotated[float, Field(gt=0, le=3650)] = 7.0
    """How long a promise lasts while nobody answers audits, in days. Once the audits since the newest answered one have
    been open for longer, they count as not answered."""
    keep_inputs: bool = False
    """`true`: the inputs are also kept. They may be private."""

    @field_validator("drift_answers")
    @classmethod
    def _check_drift_answers(cls, count: int, info: ValidationInfo) -> int:
        if (keep := info.data.get("keep")) is not None and 3 * count > keep:
            raise ValueError(
                f"requires `keep` to be at least {3 * count}, three times as many; it is {keep} (got {count})"
            )
        return count


class CommandsConfig(Table):
    """Which commands the board accepts from the bus."""

    allow: tuple[Operation, ...] = Field(default=("ping", "health"), strict=False)
    """The commands that are carried out."""
    key_file: ConfigPath | None = None
    """A file with a key with which commands must be signed. Default: commands need no signature."""


class BoardConfig(Table):
    """Where the board's sensors are read from."""

    root: ConfigPath = Path("/")
    """The folder that holds `sys` and `proc`. If it is not `/`, no device is opened, and a Raspberry Pi's throttle bits
    come from a file `get_throttled` there, as `vcgencmd` prints them."""


class HealthConfig(Table):
    """How often the board publishes its health."""

    interval_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    """Seconds between messages on `health`."""


class GovernorConfig(Table):
    """Slows the agent down before the board itself has to slow down."""

    enabled: bool = True
    """`false`: only alarms remain."""
    headroom_c: Annotated[float, Field(ge=0.5, le=40)] = 2.0
    """How many °C below the SoC's limit the governor begins."""
    memory_reserve_mb: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """The memory (10⁶ bytes) to keep free; below twice as much the governor begins. Default: 5 % of all memory."""


class HomeAssistantConfig(Table):
    """Discovery by Home Assistant."""

    enabled: bool | None = None
    """`true`: announce the board. `false`: withdraw an earlier announcement. Default: neither."""
    prefix: TopicRoot = "homeassistant"
    """Home Assistant's discovery prefix."""


class LogConfig(Table):
    """The log on standard error. Of requests it quotes only ids, tasks and topics; of `[signals]`, machines and the
    payloads of values that are not taken. Each is cut at 80 characters."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The lowest severity that is logged. Each kind of line appears at most 50 times in ten minutes."""


class Config(Table):
    models_dir: ConfigPath = Path("/var/lib/edge-agent/models")
    """The folder of the bundles that `cmd/model-switch` names; `health` reports the free space on its disk."""
    state_dir: ConfigPath = Path("/var/lib/edge-agent/state")
    """What the agent keeps across restarts: requests, replies, measurements, prefixes. No two agents may share it."""
    device: DeviceConfig
    mqtt: MqttConfig = MqttConfig()
    pool: PoolConfig | None = None
    models: Annotated[dict[Literal["default"], ModelConfig], Field(min_length=1)]
    engine: EngineSettings = EngineSettings()
    queue: QueueConfig = QueueConfig()
    tasks: Annotated[dict[Name, TaskConfig], Field(max_length=MAX_TASKS)] = Field(default_factory=dict)
    signals: Annotated[dict[Name, SignalsTable], Field(max_length=MAX_SIGNALS)] = Field(default_factory=dict)
    """How single values of a plant are joined into readings (docs/signals.md). Default: none."""
    feedback: FeedbackConfig = FeedbackConfig()
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
    def pool_topics(self) -> TaskTopics | None:
        """None if the board is in no pool."""
        return topics.pool_topics(self.mqtt.root, self.device.site, self.pool.name) if self.pool else None

    @property
    def own_topics(self) -> tuple[TaskTopics, ...]:
        """All topics below which this board answers requests."""
        return (self.topics,) if self.pool_topics is None else (self.topics, self.pool_topics)

    @property
    def digest(self) -> bytes:
        """A hash of all values and of the version of the agent."""
        return hashlib.sha256(f"{__version__}\n{self.model_dump_json(warnings=False)}".encode()).digest()

    @property
    def reading_filters(self) -> frozenset[str]:
        """What the enabled tasks subscribe to."""
        return frozenset(text for task in self.tasks.values() if task.enabled for text in task.subscribe)

    @property
    def reply_topics(self) -> tuple[str, ...]:
        if self.mqtt.reply_topics is not None:
            return self.mqtt.reply_topics
        default, pool = self.topics.default_reply_topics, self.pool_topics
        return default if pool is None else (*default, pool.all_responses)
