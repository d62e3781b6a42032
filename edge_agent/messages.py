"""Every message that callers see, and its one codec: requests and commands in, replies out."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from edge_agent.faults import cut, first_fault, shown
from edge_agent.templates import compact_json

MAX_JSON_DEPTH = 64
# A token at least is each in a prompt, and a context has at most 131072. They take a hundred bytes each, and time.
MAX_JSON_VALUES = 200_000
MAX_DEADLINE_MS = 86_400_000
_MOST_STOPS = 8


class Status(StrEnum):
    OK = "ok"
    BUSY = "busy"
    EXPIRED = "expired"
    INVALID = "invalid"
    CANCELLED = "cancelled"
    FAILED = "failed"
    PARTIAL = "partial"


class Code(StrEnum):
    """`error.code` of a reply; each belongs to one status."""

    QUEUE_FULL = "queue_full"
    DEADLINE_UNREACHABLE = "deadline_unreachable"
    LOADING = "loading"
    DRAINING = "draining"
    OVERHEATED = "overheated"
    POWER_LIMITED = "power_limited"
    MEMORY_LOW = "memory_low"
    RATE_LIMITED = "rate_limited"
    DEADLINE = "deadline"
    NOT_UTF8 = "not_utf8"
    BAD_JSON = "bad_json"
    BAD_FIELD = "bad_field"
    UNKNOWN_TASK = "unknown_task"
    TOO_LONG = "too_long"
    REPLY_TOPIC_REFUSED = "reply_topic_refused"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    ENGINE_LOST = "engine_lost"
    NO_VALID_OUTPUT = "no_valid_output"
    INTERNAL = "internal"

    @property
    def status(self) -> Status:
        return _STATUS_OF_CODE[self]


_STATUS_OF_CODE = {
    Code.QUEUE_FULL: Status.BUSY,
    Code.DEADLINE_UNREACHABLE: Status.BUSY,
    Code.LOADING: Status.BUSY,
    Code.DRAINING: Status.BUSY,
    Code.OVERHEATED: Status.BUSY,
    Code.POWER_LIMITED: Status.BUSY,
    Code.MEMORY_LOW: Status.BUSY,
    Code.RATE_LIMITED: Status.BUSY,
    Code.DEADLINE: Status.EXPIRED,
    Code.NOT_UTF8: Status.INVALID,
    Code.BAD_JSON: Status.INVALID,
    Code.BAD_FIELD: Status.INVALID,
    Code.UNKNOWN_TASK: Status.INVALID,
    Code.TOO_LONG: Status.INVALID,
    Code.REPLY_TOPIC_REFUSED: Status.INVALID,
    Code.QUARANTINED: Status.INVALID,
    Code.CANCELLED: Status.CANCELLED,
    Code.SUPERSEDED: Status.CANCELLED,
    Code.ENGINE_LOST: Status.FAILED,
    Code.NO_VALID_OUTPUT: Status.FAILED,
    Code.INTERNAL: Status.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    code: Code
    message: str
    retry_after_s: float | None = None


class Refusal(Exception):  # noqa: N818 - an answer to the caller, not a fault of ours
    """A request that is answered without inference."""

    def __init__(self, code: Code, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.error = Error(code=code, message=message, retry_after_s=retry_after_s)


class NotJsonError(ValueError):
    """The text is not strict JSON; the message says why and where."""


def _refuse_constant(text: str) -> Any:
    raise NotJsonError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJsonError(f"the number {shown(text)} is too large")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > 300:
        raise NotJsonError(f"the number {shown(text)} is too large")
    return int(text)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise NotJsonError(f"the key {shown(key)} occurs twice in one object")
        value[key] = item
    return value


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant,
    parse_float=_finite_float,
    parse_int=_bounded_int,
    object_pairs_hook=_distinct_keys,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(text: str) -> Any:
    """Strict JSON (RFC 8259): no NaN, no duplicate keys, no lone surrogates, at most MAX_JSON_DEPTH levels.

    Nor more than MAX_JSON_VALUES values, commas and brackets within texts among them. Raises NotJsonError.
    """
    if sum(map(text.count, ",[{")) > MAX_JSON_VALUES:
        raise NotJsonError(f"it has more than {MAX_JSON_VALUES} values")
    try:
        value = _DECODER.decode(text)
    except NotJsonError:
        raise
    except json.JSONDecodeError as error:
        raise NotJsonError(f"{error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise NotJsonError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from error
    _check_value(value, MAX_JSON_DEPTH)
    return value


def _check_value(value: Any, levels: int) -> None:
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise NotJsonError("a string holds half of a surrogate pair")
    elif isinstance(value, (dict, list)):
        if levels == 0:
            raise NotJsonError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_value(item, levels - 1)


def _refuse_null(value: object) -> object:
    if value is None:
        raise ValueError("should have a value or be left out")
    return value


class Options(BaseModel):
    """`options` of an envelope. None = the task's or the usual default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_tokens: Annotated[int, Field(ge=1, le=32768)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1000)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    stop: tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...] = Field(
        default=(), strict=False, max_length=_MOST_STOPS
    )
    reasoning: Literal["drop", "include"] = "drop"
    max_reasoning_tokens: Annotated[int, Field(ge=0, le=32768)] | None = None

    _check_null = field_validator("max_tokens", "seed", "max_reasoning_tokens", mode="before")(_refuse_null)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: object) -> object:
        if isinstance(stop, str):
            return (stop,)
        if not isinstance(stop, list) or len(stop) > _MOST_STOPS:
            # Of a longer one pydantic would tell what is wrong with each.
            raise ValueError(f"should be a string or a list of at most {_MOST_STOPS} strings")
        return stop

    @model_validator(mode="before")
    @classmethod
    def _one_unknown_key(cls, options: object) -> object:
        if not isinstance(options, dict):
            return options
        unknown = next((key for key in options if key not in cls.model_fields), None)
        # As many faults as there are would be made, of which one is told.
        return {key: value for key, value in options.items() if key in cls.model_fields or key == unknown}


class Envelope(BaseModel):
    """An object with a key `input`. Unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: Any
    id: Annotated[str, StringConstraints(min_length=1, max_length=128, strict=True)] | StrictInt | None = None
    reply_to: StrictStr | None = None
    deadline_ms: Annotated[StrictInt, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None
    priority: Annotated[StrictInt, Field(ge=0, le=9)] | None = None
    stream: StrictBool = False
    options: Options = Options()

    _check_null = field_validator("reply_to", "deadline_ms", "priority", mode="before")(_refuse_null)

    @field_validator("id", mode="before")
    @classmethod
    def _check_id(cls, value: object) -> object:
        is_id = isinstance(value, str) and 1 <= len(value) <= 128
        is_id = is_id or (isinstance(value, int) and not isinstance(value, bool))
        if not is_id:
            raise ValueError("should be a string of 1 to 128 characters or an integer")
        return value


# What they say may quote the caller, or an answer that was made of his words.
_QUOTING = {Code.BAD_JSON, Code.BAD_FIELD, Code.UNKNOWN_TASK, Code.REPLY_TOPIC_REFUSED, Code.NO_VALID_OUTPUT}
_OPTION = f"options\\.(?:{'|'.join(Options.model_fields)})"
_FIELD = re.compile(rf"(?:payload|task|response topic|{_OPTION}|{'|'.join(Envelope.model_fields)})\b")


def logged(error: Error) -> str:
    """Why a request was refused, as far as a log may tell: of what may quote its caller, the field alone."""
    if error.code not in _QUOTING:
        return error.message
    field = _FIELD.match(error.message)
    return field[0] if field else "no field"


def parse_payload(payload: bytes, content_type: str | None) -> Envelope:
    """What a request says: an envelope, or a bare input in an envelope of defaults.

    Raises Refusal with not_utf8, bad_json or bad_field.
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(Code.NOT_UTF8, f"payload: should be UTF-8 ({error.reason} at byte {error.start})") from error
    if not text:
        raise Refusal(Code.BAD_FIELD, "payload: should not be empty")
    if not is_json(text, content_type):
        return Envelope(input=text)
    try:
        value = parse_json(text)
    except NotJsonError as error:
        raise Refusal(Code.BAD_JSON, f"payload: should be strict JSON: {error}") from error
    if not isinstance(value, (dict, list)):
        return Envelope(input=text)  # `42` is the text "42", whatever the Content Type
    if isinstance(value, list) or "input" not in value:
        value = {"input": value}
    try:
        envelope = Envelope.model_validate(value)
    except ValidationError as error:
        raise Refusal(Code.BAD_FIELD, first_fault(error, known=Options.model_fields)) from error
    if not isinstance(envelope.input, (str, dict, list)):
        raise Refusal(Code.BAD_FIELD, f"input: should be a string, an object or an array (got {shown(envelope.input)})")
    return envelope


def parse_bare(payload: bytes, content_type: str | None) -> Envelope:
    """A reading from a topic that sensors publish already: all of it is the input. Raises Refusal."""
    try:
        text = payload.decode("utf-8")
        value = parse_json(text) if is_json(text, content_type) else text
    except UnicodeDecodeError as error:
        raise Refusal(Code.NOT_UTF8, f"payload: should be UTF-8 ({error.reason} at byte {error.start})") from error
    except NotJsonError as error:
        raise Refusal(Code.BAD_JSON, f"payload: should be strict JSON: {error}") from error
    if not text:
        raise Refusal(Code.BAD_FIELD, "payload: should not be empty")
    return Envelope(input=value if isinstance(value, (dict, list)) else text)


def is_json(text: str, content_type: str | None) -> bool:
    """Content Type decides where it is given: application/json is parsed, text/* never is."""
    media_type = (content_type or "").split(";")[0].strip().lower()
    if media_type.startswith("text/"):
        return False
    return media_type == "application/json" or text.lstrip(" \t\r\n")[:1] in ("{", "[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a request came from and where its replies go; known even when its payload cannot be read."""

    task: str
    reply_topic: str
    correlation: bytes | None
    id: str | int
    is_id_given: bool

    @property
    def nbytes(self) -> int:
        """What is kept of it, nearly."""
        return len(str(self.id)) + len(self.correlation or b"") + len(self.reply_topic) + 200

    @property
    def log_id(self) -> str | int:
        """As Correlation Data it may have any length."""
        return cut(self.id) if isinstance(self.id, str) else self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    name: str
    sha256: str
    quantization: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    energy_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds; None = that phase was not reached. batch: requests that shared a step with this one."""

    queued_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    total_ms: float | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a request ended, apart from who asked: what a repeated request is given again."""

    status: Status
    output: str | dict[str, Any] | None = None
    scores: dict[str, float] | None = None
    finish: str | None = None
    reasoning: str | None = None
    error: Error | None = None
    degraded: tuple[str, ...] = ()
    model: ModelName | None = None
    usage: Usage | None = None
    timing: Timing = field(default_factory=Timing)

    @classmethod
    def refused(cls, error: Error, timing: Timing | None = None) -> Outcome:
        return cls(status=error.code.status, error=error, timing=timing or Timing())


def encode_reply(origin: Origin, outcome: Outcome, *, device: str, ts: str | None, repeat: bool = False) -> bytes:
    """The terminal reply: every top-level field is there, null where it does not apply."""
    error, model, usage, timing = outcome.error, outcome.model, outcome.usage, outcome.timing
    document = {
        "id": origin.id,
        "task": origin.task,
        "device": device,
        "ts": ts,
        "status": outcome.status.value,
        "output": outcome.output,
        "scores": outcome.scores,
        "finish": outcome.finish,
        "reasoning": outcome.reasoning,
        "error": error and {"code": error.code.value, "message": error.message, "retry_after_s": error.retry_after_s},
        "degraded": list(outcome.degraded),
        "repeat": repeat,
        "model": model and {"name": model.name, "sha256": model.sha256, "quantization": model.quantization},
        "usage": usage
        and {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "energy_j": None if usage.energy_j is None else round(usage.energy_j, 3),
        },
        "timing": {
            "queued_ms": _rounded(timing.queued_ms),
            "prefill_ms": _rounded(timing.prefill_ms),
            "decode_ms": _rounded(timing.decode_ms),
            "total_ms": _rounded(timing.total_ms),
            "batch": timing.batch,
        },
    }
    return encode(document)


def untaken(nbytes: int) -> Error:
    """Of a reply of so many bytes."""
    message = f"the reply of {nbytes} bytes cannot be sent: the broker takes no message of this size"
    return Error(code=Code.INTERNAL, message=message)


def shortened(reply: bytes) -> bytes | None:
    """A terminal reply of ours where the broker does not take it; None: it is a short one already."""
    document = json.loads(reply)
    if document["error"] is not None:
        return None
    error = untaken(len(reply))
    document |= {"status": Status.FAILED.value, "degraded": []}
    document |= dict.fromkeys(("output", "scores", "finish", "reasoning", "model", "usage"))
    document["error"] = {"code": error.code.value, "message": error.message, "retry_after_s": error.retry_after_s}
    return encode(document)


_OUTCOME = TypeAdapter(Outcome)


def decode_reply(payload: bytes) -> Outcome:
    """The outcome that a terminal reply of ours tells."""
    return _OUTCOME.validate_json(payload)


def encode_partial(origin: Origin, seq: int, delta: str) -> bytes:
    """One piece of a streamed answer."""
    return encode({"id": origin.id, "task": origin.task, "status": "partial", "seq": seq, "delta": delta})


def encode(document: dict[str, Any]) -> bytes:
    """Compact UTF-8 JSON."""
    return compact_json(document).encode("utf-8")


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)
