"""The `[signals.NAME]` table: how single values become readings of machines."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from edge_agent.core import topics
from edge_agent.core.strict_json import MAX_NUMBER
from edge_agent.core.table import Table, TopicFilter, checked
from edge_agent.core.wording import shown

# The ring buffer of each value of each machine takes 3.5 kB.
MAX_TRACKS = 4096
MAX_VALUES = 32
# The agent's loop turns four times a second.
MIN_EVERY_S = 0.1
Feature = Literal["last", "mean", "min", "max", "std", "slope", "count", "age_s"]
# The kind `unusual` learns from whole windows: readings of less than this share look unusual to it.
WHOLE_COVERAGE = 0.95
DEFAULT_FEATURES: tuple[Feature, ...] = ("last", "mean", "min", "max", "std", "slope")
# Features of the present moment, which need no window.
MOMENTARY: frozenset[Feature] = frozenset({"last", "age_s"})
MAX_METRIC_CHARS = 256
_NODE_PLACEHOLDERS = ("{group}", "{node}", "{device}")

ValueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
# A key of an object, the index of an element, or keys and values that an element of an array must have.
Step = str | int | dict[str, str | int | float | bool]
JsonPath = Annotated[tuple[Step, ...], Field(max_length=16, strict=False)]
_Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, strict=False)]


def _check_level(level: str) -> str:
    is_name = level in {"", "+"} or not (topics.topic_fault(level) or "/" in level)
    return checked(None if is_name else "should be one level of a topic, or `+`", level)


_Level = Annotated[str, AfterValidator(_check_level)]


def window_name(seconds: float) -> str:
    """The suffix of a field's name that says its window, such as `10m` for 600."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


class ValueTable(Table):
    """Where one value comes from, and how long it holds."""

    topic: TopicFilter | None = None
    """The filter of the topics that have the value. Required unless the source is `sparkplug`. Default: none."""
    metric: Annotated[str, StringConstraints(min_length=1, max_length=MAX_METRIC_CHARS)] | None = None
    """The name of the Sparkplug metric. Required if the source is `sparkplug`. Default: none."""
    path: JsonPath = ()
    """Where the value is in a JSON payload: keys of objects, indexes of elements, or `{ id = "…" }` for the element of
    an array in which that key has that value. Default: the payload is the value."""
    map: dict[str, _Number] = Field(default_factory=dict)
    """The numbers that texts stand for, such as `{ ON = 1, OFF = 0 }`. Default: none."""
    decimal_comma: bool = False
    """`true`: a text with one comma and no point, such as `7,31`, is a number with a decimal comma. Default: it is not
    taken, because it may have been meant otherwise."""
    minimum: _Number | None = None
    """The lowest number that the sensor can measure. A lower one, such as the -9999 of a broken sensor, is not taken,
    and the value is missing. Default: none."""
    maximum: _Number | None = None
    """The highest number that the sensor can measure, in the same way. Default: none."""
    max_age_s: Annotated[float, Field(ge=0, le=31_536_000, strict=False)] | None = None
    """How long a value holds after its arrival; then it is stale, and counts as missing. 0 means until the next one.
    Default: `window_s`, or 0 if the source is `sparkplug`, whose sessions say how long values hold."""
    optional: bool = False
    """`true`: readings are also made without it, with null in its place."""
    retained: bool = False
    """`true`: a retained message gives the value until a new message comes, for `max_age_s` at most, but fires no
    trigger. Default: retained messages are ignored."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1, strict=False)] | None = None
    """The features of this value in a reading. Default: the table's."""
    quality: JsonPath = ()
    """Where the payload has the value's quality. `false`, or a number below 192 as in OPC, makes the value missing.
    Default: every value is good."""
    time: JsonPath = ()
    """Where the payload has the time of the measurement: RFC 3339 with an offset, or seconds or milliseconds since
    1970. A value older than `max_age_s`, or whose time cannot be read, is not taken. Default: only the arrival
    counts."""

    @field_validator("maximum")
    @classmethod
    def _check_maximum(cls, maximum: float | None, info: ValidationInfo) -> float | None:
        minimum = info.data.get("minimum")
        if maximum is not None and minimum is not None and maximum <= minimum:
            raise ValueError(f"should be above `minimum` (got {maximum:g})")
        return maximum


class TriggerTable(Table):
    """What makes a reading immediately, in addition to those of `every_s`."""

    on_change: Annotated[tuple[ValueName, ...], Field(strict=False)] = ()
    """The values whose changes make a reading."""
    dead_band: dict[ValueName, Annotated[float, Field(gt=0, strict=False)]] = Field(default_factory=dict)
    """The dead band of values in `on_change`: a change counts if it is more than this, since the last one that counted.
    Default: every change counts."""
    above: dict[ValueName, _Number] = Field(default_factory=dict)
    """The upper limits of values: rising above one makes a reading. Default: none."""
    below: dict[ValueName, _Number] = Field(default_factory=dict)
    """The lower limits of values: falling below one makes a reading. Default: none."""
    hysteresis: dict[ValueName, Annotated[float, Field(gt=0, strict=False)]] = Field(default_factory=dict)
    """How far a value must come back from its limit before it can cross it again. Default: to the limit."""


class SignalsTable(Table):
    """Joins single values into one reading for each machine, with the features of a sliding window."""

    source: Literal["topics", "sparkplug"] = "topics"
    """`topics`: values come on MQTT topics of their own. `sparkplug`: values are metrics of Sparkplug B."""
    machine: str = "{1}"
    """The machine's name, made from the topic: `{1}` is what the first wildcard of a value's filter matched. With
    Sparkplug, it is made from `{group}`, `{node}` and `{device}`, and the default is `{node}/{device}`, or `{node}` if
    `device` is empty."""
    names: dict[str, str] = Field(default_factory=dict)
    """Other names for machines, by the one that `machine` makes, such as `{ tasmota_A1B2C3 = "pump-7" }`. Default:
    none."""
    window_s: Annotated[float, Field(ge=1, le=604_800, strict=False)] = 600.0
    """The length of the window, in seconds. The names of fields say it, such as `mean_10m`."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1, strict=False)] = DEFAULT_FEATURES
    """The features of each value in a reading: `last`; over the window, weighted by time, `mean`, `min`, `max`, `std`
    and `slope` (per minute); `count`, the number of messages in it; `age_s`, the seconds since the last message,
    null while the value is that of a retained one."""
    every_s: Annotated[float, Field(ge=0, le=86_400, strict=False)] = 60.0
    """How often each machine gets a reading: 0.1 or more, or 0 for only when a trigger fires."""
    min_gap_s: Annotated[float, Field(ge=0, le=86_400, strict=False)] = 5.0
    """The shortest time between two readings of a machine, or `every_s` if that is shorter. A trigger that fires
    earlier waits."""
    min_coverage: Annotated[float, Field(ge=0, le=1, strict=False)] = 0.5
    """For what share of the window every value that is not optional must be known, or there is no reading."""
    max_machines: Annotated[int, Field(ge=1, le=1000)] = 64
    """How many machines are followed. Others are refused, and counted in `health`."""
    forget_s: Annotated[float, Field(ge=60, le=31_536_000, strict=False)] = 86_400.0
    """After how long a silent machine is forgotten."""
    group: _Level = "+"
    """The Sparkplug group; `+` means every group."""
    node: _Level = "+"
    """The Sparkplug edge node; `+` means every node."""
    device: _Level = "+"
    """The Sparkplug device; `+` means every device, and `""` the metrics of the node itself."""
    rebirth: bool = False
    """`true`: asks a node for a rebirth after a missed birth or a gap, at most once a minute. Nothing else is ever sent
    to a node."""
    certificates: bool = False
    """`true`: learns the names and types of metrics from the births that a broker keeps below
    `$sparkplug/certificates`. Not every broker allows that subscription."""
    record_every_s: Annotated[float, Field(ge=0, le=86_400, strict=False)] = 0.0
    """How often a reading of each machine is recorded in `state_dir`, as a row without an answer for
    `edge-agent rows`; at most as often as readings are made. 0 means never."""
    record_mb: Annotated[float, Field(gt=0, le=10_000, strict=False)] = 20.0
    """How much disk space the recorded rows may take (10⁶ bytes). The older half is deleted first."""
    values: Annotated[dict[ValueName, ValueTable], Field(min_length=1, max_length=MAX_VALUES)]
    """The values of a reading, by the names of its fields."""
    trigger: TriggerTable = TriggerTable()

    @field_validator("names")
    @classmethod
    def _check_names(cls, names: dict[str, str]) -> dict[str, str]:
        for name in names.values():
            checked(machine_fault(name), name)
        return names

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: dict[str, ValueTable], info: ValidationInfo) -> dict[str, ValueTable]:
        is_sparkplug = info.data.get("source") == "sparkplug"
        needed, other = ("metric", "topic") if is_sparkplug else ("topic", "metric")
        for name, value in values.items():
            if getattr(value, needed) is None:
                raise ValueError(f"{name}: requires `{needed}`")
            if getattr(value, other) is not None:
                raise ValueError(f"{name}: `{other}` cannot be used with this `source`; use `{needed}`")
            for key in ("path", "quality", "time", "retained"):
                if is_sparkplug and getattr(value, key):
                    raise ValueError(f'{name}: `{key}` cannot be used with `source = "sparkplug"`')
        return values

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if self.source == "sparkplug":
            rest = self.machine_pattern
            placeholders = _NODE_PLACEHOLDERS if self.device else _NODE_PLACEHOLDERS[:-1]
            for placeholder in placeholders:
                rest = rest.replace(placeholder, "x")
            if "{" in rest or machine_fault(rest):
                rule = f"should be made from {', '.join(placeholders)}"
                raise ValueError(f"machine: {rule} (got {shown(self.machine_pattern)})")
        else:
            for name, value in self.values.items():
                wildcards = len(re.findall(r"[+#]", value.topic or ""))
                if fault := topics.machine_pattern_fault(self.machine, wildcards):
                    raise ValueError(
                        f"machine: does not match values.{name}.topic: {fault} (got {shown(self.machine)})"
                    )
        trigger = self.trigger
        for key in ("on_change", "dead_band", "above", "below", "hysteresis"):
            if unknown := sorted(set(getattr(trigger, key)) - self.values.keys()):
                raise ValueError(f"trigger.{key}: should name values of this table (got {shown(unknown[0])})")
        if without := sorted(trigger.dead_band.keys() - set(trigger.on_change)):
            raise ValueError(f"trigger.dead_band: {without[0]} should be one of on_change")
        if without := sorted(trigger.hysteresis.keys() - trigger.above.keys() - trigger.below.keys()):
            raise ValueError(f"trigger.hysteresis: {without[0]} should be in above or below")
        if 0 < self.every_s < MIN_EVERY_S:
            raise ValueError(f"every_s: should be 0, or at least {MIN_EVERY_S} (got {self.every_s:g})")
        if not self.every_s and not (trigger.on_change or trigger.above or trigger.below):
            raise ValueError("every_s: should be above 0 unless there is a trigger")
        return self

    @property
    def machine_pattern(self) -> str:
        if self.source == "topics" or "machine" in self.model_fields_set:
            return self.machine
        return "{node}/{device}" if self.device else "{node}"

    def machine_of(self, topic_filter: str, topic: str) -> str | None:
        """The machine of which a topic has a value; None if the filter does not match it."""
        matched = topics.wildcard_values(topic_filter, topic)
        if matched is None:
            return None
        machine = topics.fill_publish_pattern(self.machine, matched)
        return self.names.get(machine, machine)

    def features_of(self, name: str) -> tuple[Feature, ...]:
        return self.values[name].features or self.features

    @property
    def has_windows(self) -> bool:
        """Whether any feature is computed over the window."""
        return any(not MOMENTARY.issuperset(self.features_of(value)) for value in self.values)

    def max_age_of(self, name: str) -> float:
        """How long a value holds, in seconds; infinite if until the next one."""
        age = self.values[name].max_age_s
        if age is None:
            age = 0.0 if self.source == "sparkplug" else self.window_s
        return age or float("inf")

    def field_names(self) -> list[str]:
        """The fields of a reading, as a trained model names them."""
        return [f"{name}.{field}" for name in self.values for field in self.fields_of(name)]

    def sample_reading(self, number: float) -> dict[str, dict[str, float]]:
        """A complete reading, made up of one number."""
        return {name: dict.fromkeys(self.fields_of(name), number) for name in self.values}

    def fields_of(self, name: str) -> list[str]:
        """The names of a value's fields, in the order of its features."""
        window = window_name(self.window_s)
        return [feature if feature in MOMENTARY else f"{feature}_{window}" for feature in self.features_of(name)]


def machine_fault(name: str) -> str | None:
    """What is wrong with a machine's name, which becomes one or more levels of topics."""
    if not 1 <= len(name) <= 128:
        return "a machine's name must have 1 to 128 characters"
    return topics.topic_fault(name)
