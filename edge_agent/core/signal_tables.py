"""The `[signals.NAME]` table: how values of several topics become readings of machines."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from edge_agent.core import topics
from edge_agent.core.strict_json import MAX_NUMBER
from edge_agent.core.table import Table, TopicFilter, checked
from edge_agent.core.wording import shown

# A ring of buckets takes 3.5 kB for each value of each machine.
MAX_TRACKS = 4096
MAX_VALUES = 32
# The agent's loop turns four times a second.
MIN_EVERY_S = 0.1
Feature = Literal["last", "mean", "min", "max", "std", "slope", "count", "age_s"]
DEFAULT_FEATURES: tuple[Feature, ...] = ("last", "mean", "min", "max", "std", "slope")
# They need no window.
MOMENTARY: frozenset[Feature] = frozenset({"last", "age_s"})
MAX_METRIC_CHARS = 256
_NODE_PLACEHOLDERS = ("{group}", "{node}", "{device}")

ValueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
# A key of an object, the number of an element, or the element of an array in which a key has a value.
Step = str | int | dict[str, str | int | float | bool]
Path = Annotated[tuple[Step, ...], Field(max_length=16, strict=False)]
_Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, strict=False)]


def _check_level(level: str) -> str:
    is_name = level in {"", "+"} or not (topics.topic_fault(level) or "/" in level)
    return checked(None if is_name else "should be a level of a topic, or `+`", level)


_Level = Annotated[str, AfterValidator(_check_level)]


def window_name(seconds: float) -> str:
    """`10m` for 600: the part of a field's name that says its window."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


class ValueTable(Table):
    """Where one value comes from, and how long it holds."""

    topic: TopicFilter | None = None
    """The topic filter on which it is published. Required, unless the source is `sparkplug`.
    Default: none."""
    metric: Annotated[str, StringConstraints(min_length=1, max_length=MAX_METRIC_CHARS)] | None = None
    """The name of the Sparkplug metric. Required if the source is `sparkplug`. Default: none."""
    path: Path = ()
    """Where the value stands in a payload of JSON: keys of objects, numbers of elements, or `{ id = "…" }` for the
    element of an array in which that key has that value. Default: the payload is the value."""
    map: dict[str, _Number] = Field(default_factory=dict)
    """Numbers for texts, such as `{ ON = 1, OFF = 0 }`. Default: none."""
    max_age_s: Annotated[float, Field(ge=0, le=31_536_000, strict=False)] | None = None
    """How long a value holds after its arrival; then it is missing. 0 means until the next one. Default: `window_s`, or
    0 if the source is `sparkplug`, whose sessions say what holds."""
    optional: bool = False
    """`true`: readings come without it, too, with null in its place."""
    retained: bool = False
    """`true`: a retained message tells the last value until a new one comes. It triggers nothing. Default: retained
    messages are ignored."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1, strict=False)] | None = None
    """What a reading holds of this value. Default: the table's."""
    quality: Path = ()
    """Where the payload says whether the value is good. `false`, or a number below 192 as in OPC, makes it missing.
    Default: every value is good."""
    time: Path = ()
    """Where the payload has the time at which it was measured: RFC 3339, or seconds or milliseconds since 1970. An
    older value than `max_age_s` is not taken. Default: the arrival counts."""


class TriggerTable(Table):
    """What makes a reading at once, besides `every_s`."""

    on_change: Annotated[tuple[ValueName, ...], Field(strict=False)] = ()
    """Values whose change makes a reading."""
    dead_band: dict[ValueName, Annotated[float, Field(gt=0, strict=False)]] = Field(default_factory=dict)
    """By how much a value of `on_change` must differ from that of the last such reading. Default: at all."""
    above: dict[ValueName, _Number] = Field(default_factory=dict)
    """Makes a reading when a value rises above this number. Default: none."""
    below: dict[ValueName, _Number] = Field(default_factory=dict)
    """Makes a reading when a value falls below this number. Default: none."""
    hysteresis: dict[ValueName, Annotated[float, Field(gt=0, strict=False)]] = Field(default_factory=dict)
    """How far a value must return beyond `above` or `below` before it can cross again. Default: at all."""


class SignalsTable(Table):
    """Joins values of several topics into one reading for each machine, with what happened in the last minutes."""

    source: Literal["topics", "sparkplug"] = "topics"
    """`topics`: each value has a topic. `sparkplug`: the values are metrics of Sparkplug B."""
    machine: str = "{1}"
    """A machine's name, from the topic: `{1}` is what the first wildcard of a value's filter matched. With Sparkplug,
    made of `{group}`, `{node}` and `{device}`; `{node}/{device}` if this is left out, or `{node}` if `device` is
    an empty text."""
    names: dict[str, str] = Field(default_factory=dict)
    """Other names for what `machine` gives, such as `{ tasmota_A1B2C3 = "pump-7" }`. Default: none."""
    window_s: Annotated[float, Field(ge=1, le=604_800, strict=False)] = 600.0
    """How far back a reading looks, in seconds. The names of its fields say it, such as `mean_10m`."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1, strict=False)] = DEFAULT_FEATURES
    """What a reading holds of each value: `last`; over the window, weighed by the time for which a value held, `mean`,
    `min`, `max`, `std` and `slope` (per minute); `count` of messages; `age_s`, the seconds since the last one."""
    every_s: Annotated[float, Field(ge=0, le=86_400, strict=False)] = 60.0
    """How often each machine is read, at least 0.1. 0 means only when a trigger says so."""
    min_gap_s: Annotated[float, Field(ge=0, le=86_400, strict=False)] = 5.0
    """The shortest time between two readings of one machine; a trigger that comes earlier waits."""
    min_coverage: Annotated[float, Field(ge=0, le=1, strict=False)] = 0.5
    """The share of the window for which each value that is not optional must be known before there is a reading."""
    max_machines: Annotated[int, Field(ge=1, le=1000)] = 64
    """How many machines are followed. Any more are refused, and counted in `health`."""
    forget_s: Annotated[float, Field(ge=60, le=31_536_000, strict=False)] = 86_400.0
    """How long a silent machine is followed."""
    group: _Level = "+"
    """The Sparkplug group; `+` means all."""
    node: _Level = "+"
    """The Sparkplug edge node; `+` means all."""
    device: _Level = "+"
    """The Sparkplug device; `+` means all, an empty text the metrics of the node itself."""
    rebirth: bool = False
    """`true`: asks a node for its birth where that was missed, at most once a minute. It is the only thing that is ever
    sent to a node."""
    certificates: bool = False
    """`true`: learns names and types of metrics from the births that a broker keeps below `$sparkplug/certificates`.
    Not every broker lets one subscribe there."""
    record_every_s: Annotated[float, Field(ge=0, le=86_400, strict=False)] = 0.0
    """How often a reading of each machine is kept in `state_dir` as a row without an answer, for `edge-agent rows`.
    0 means never."""
    record_mb: Annotated[float, Field(gt=0, le=10_000, strict=False)] = 20.0
    """How much of the disk these rows may take (10⁶ bytes). The oldest half goes first."""
    values: Annotated[dict[ValueName, ValueTable], Field(min_length=1, max_length=MAX_VALUES)]
    """What a reading is made of. The names become those of its fields."""
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
                raise ValueError(f"{name}: `{other}` does not go with this `source`; use `{needed}`")
            for key in ("path", "quality", "time", "retained"):
                if is_sparkplug and getattr(value, key):
                    raise ValueError(f'{name}: `{key}` does not go with `source = "sparkplug"`')
        return values

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if self.source == "sparkplug":
            rest = self.machine_pattern
            placeholders = _NODE_PLACEHOLDERS if self.device else _NODE_PLACEHOLDERS[:-1]
            for placeholder in placeholders:
                rest = rest.replace(placeholder, "x")
            if "{" in rest or machine_fault(rest):
                rule = f"should be made of {', '.join(placeholders)}"
                raise ValueError(f"machine: {rule} (got {shown(self.machine_pattern)})")
        else:
            for name, value in self.values.items():
                wildcards = len(re.findall(r"[+#]", value.topic or ""))
                if fault := topics.publish_pattern_fault(self.machine, wildcards):
                    raise ValueError(f"machine: does not go with values.{name}.topic: {fault}")
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
            raise ValueError("every_s: should be above 0, or there should be a trigger")
        return self

    @property
    def machine_pattern(self) -> str:
        if self.source == "topics" or "machine" in self.model_fields_set:
            return self.machine
        return "{node}/{device}" if self.device else "{node}"

    def features_of(self, name: str) -> tuple[Feature, ...]:
        return self.values[name].features or self.features

    def max_age_of(self, name: str) -> float:
        """In seconds; infinite where a value holds until the next one."""
        age = self.values[name].max_age_s
        if age is None:
            age = 0.0 if self.source == "sparkplug" else self.window_s
        return age or float("inf")

    def field_names(self) -> list[str]:
        """Of a reading, as a trained model has them."""
        return [f"{name}.{field}" for name in self.values for field in self.fields_of(name)]

    def fields_of(self, name: str) -> list[str]:
        """The keys of a value in a reading, in the order of its features."""
        window = window_name(self.window_s)
        return [feature if feature in MOMENTARY else f"{feature}_{window}" for feature in self.features_of(name)]


def machine_fault(name: str) -> str | None:
    """What is wrong with a machine's name, which becomes levels of topics."""
    if not 1 <= len(name) <= 128:
        return "a machine's name must have 1 to 128 characters"
    return topics.topic_fault(name)
