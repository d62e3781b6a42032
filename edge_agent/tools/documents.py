"""What a board publishes about itself: `state`, `health`, `info` and alarms, as far as a document can be trusted.

Anybody may publish anything on these topics. A field that is missing, of another type or out of range gets its default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticUndefined

from edge_agent.core.errors import first_fault
from edge_agent.core.strict_json import parse_json

MAX_PAYLOAD_BYTES = 1_000_000
MAX_TEXT, MAX_LIST = 300, 20


def parse_object(payload: bytes) -> dict[str, Any]:
    """The JSON object that a message holds. Raises ValueError with the reason."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"has {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are read")
    try:
        value = parse_json(payload.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    if not isinstance(value, dict):
        raise ValueError("should be a JSON object")  # noqa: TRY004 - a fault of the sender
    return value


def object_or_empty(payload: bytes) -> dict[str, Any]:
    """The JSON object that a message holds; an empty one where it holds none."""
    try:
        return parse_object(payload)
    except ValueError:
        return {}


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _default_if_invalid(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        default = field.get_default(call_default_factory=True)
        try:
            return validate(value)
        except ValueError:
            if default is PydanticUndefined:
                raise
            return default

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """The document in a message. Raises ValueError with the reason."""
        try:
            return cls.model_validate(parse_object(payload))
        except ValidationError as error:
            raise ValueError(first_fault(error)) from error


def _time(value: object) -> float:
    """Seconds since 1970 of a time with its offset from UTC."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    if moment is None or moment.tzinfo is None:
        raise ValueError("should be a time with its offset from UTC")
    return moment.timestamp()


Text = Annotated[str, Field(min_length=1), AfterValidator(lambda text: text[:MAX_TEXT])] | None
Time = Annotated[float, BeforeValidator(_time)] | None
Count = Annotated[int, Field(ge=0, le=2**53)] | None
Celsius = Annotated[float, Field(ge=-200, le=260)] | None
Amount = Annotated[float, Field(ge=0, le=1e10)] | None


def _texts(value: object) -> tuple[str, ...]:
    """The texts of a list, or the keys of an object."""
    items = list(value) if isinstance(value, (list, dict)) else []
    return tuple(item[:MAX_TEXT] for item in items[:MAX_LIST] if isinstance(item, str))


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class StateDocument(_Document):
    """The field `state` has no default: without it the document says nothing."""

    state: Literal["online", "draining", "stopped", "offline"]
    session: Text = None
    connected_at: Time = None
    reason: Text = None
    version: Text = None


class Alarm(_Document):
    # Of a severity that is neither, the worse one is the safe reading.
    severity: Literal["warning", "critical"] = "critical"
    since: Time = None
    message: Text = None
    session: Text = None


class _Queue(_Document):
    depth: Count = None
    capacity: Count = None


class _Latency(_Document):
    p95: Amount = None


class _Inference(_Document):
    active: Count = None
    decode_tok_s: Amount = None
    prefill_tok_s: Amount = None
    latency_ms: _Latency = _Latency()


class _Thermal(_Document):
    soc_c: Celsius = None
    limit_c: Celsius = None
    headroom_c: Celsius = None
    throttled_now: bool | None = None
    throttled_since_boot: bool | None = None
    causes: Texts = ()


class _Power(_Document):
    watts: Amount = None
    scope: Text = None
    undervoltage_now: bool | None = None
    undervoltage_since_boot: bool | None = None


class _Cpu(_Document):
    percent: Annotated[float, Field(ge=0, le=100)] | None = None


class _Memory(_Document):
    available_mb: Amount = None


class _Governor(_Document):
    level: Text = None
    reason: Text = None


class _Worker(_Document):
    model: Text = None
    restarts: Count = None


class Health(_Document):
    """Named and nested as the topic `health`; sensor_errors: the names of the sensors."""

    ts: Time = None
    session: Text = None
    uptime_s: Amount = None
    overall: Literal["ok", "degraded", "critical"] | None = None
    reasons: Texts = ()
    queue: _Queue = _Queue()
    inference: _Inference = _Inference()
    thermal: _Thermal = _Thermal()
    power: _Power = _Power()
    cpu: _Cpu = _Cpu()
    memory: _Memory = _Memory()
    governor: _Governor = _Governor()
    worker: _Worker = _Worker()
    sensor_errors: Texts = ()


class _Board(_Document):
    model: Text = None


class _Model(_Document):
    name: Text = None
    quantization: Text = None


class _Limits(_Document):
    health_interval_s: Annotated[float, Field(ge=0.1, le=3600)] | None = None


class Info(_Document):
    board: _Board = _Board()
    models: tuple[_Model, ...] = Field(default=(), strict=False)
    limits: _Limits = _Limits()

    @property
    def model(self) -> _Model:
        return self.models[0] if self.models else _Model()
