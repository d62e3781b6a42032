"""The payload of a request: an envelope, or a bare input."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from edge_agent.core.clock import parse_device_time
from edge_agent.core.codes import Code, Refusal
from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.wording import first_fault, shown

MAX_DEADLINE_MS = 86_400_000
# Requests and tasks set these alike.
Tokens = Annotated[int, Field(ge=1, le=32768)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Reasoning = Literal["drop", "include"]
ReasoningTokens = Annotated[int, Field(ge=0, le=32768)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_STOP = {"type": "string", "minLength": 1, "maxLength": 256}


class Options(BaseModel):
    """How the answer is made. Unknown options are refused. Options that are left out take the task's values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    max_tokens: Tokens | None = None
    """The maximum number of tokens of the answer. Default: the task's."""
    temperature: Temperature | None = None
    """0 always takes the most probable token. Default: the task's."""
    top_p: TopP | None = None
    """Only the most probable tokens that together have this probability. Default: the task's."""
    top_k: Annotated[int, Field(ge=0, le=1000)] = 0
    """Only this many of the most probable tokens. 0 takes all."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Only tokens with this share of the best token's probability."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    """The same seed gives the same answer. Default: a random one."""
    stop: Annotated[
        tuple[_Stop, ...], WithJsonSchema({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": 8}]})
    ] = Field(default=(), strict=False, max_length=8, fail_fast=True)
    """Strings that end the answer; a single string needs no list."""
    reasoning: Reasoning | None = None
    """`include`: the reply has what a reasoning model wrote before its answer. Default: the task's."""
    max_reasoning_tokens: ReasoningTokens | None = None
    """The maximum number of reasoning tokens, counted in `max_tokens`. 0 turns reasoning off. Default: the task's."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: object) -> object:
        return (stop,) if isinstance(stop, str) else stop


class Envelope(BaseModel):
    """A request: an object with a key `input`. Unknown keys are ignored.

    A payload without `input` is the input itself.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    input: Annotated[Any, WithJsonSchema({"type": ["string", "object", "array"]})]
    """The reading, in the task's template as `input`. For `generate`: text, or `{"messages": [{"role", "content"},
    …]}`."""
    id: Annotated[
        str | int | None,
        WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 128}, {"type": "integer"}]}),
    ] = None
    """Echoed in the reply. Default: the MQTT 5 Correlation Data, otherwise a generated one."""
    reply_to: StrictStr | None = None
    """The topic of the reply, which `mqtt.reply_topics` must allow. An MQTT 5 Response Topic wins. Default: the task's
    `response` topic."""
    deadline_ms: Annotated[StrictInt, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None
    """How many milliseconds after arrival the answer is still of use. The smaller of this and the MQTT 5 Message Expiry
    counts. Default: the task's, otherwise `queue.default_deadline_ms`."""
    priority: Annotated[StrictInt, Field(ge=0, le=9)] | None = None
    """0 is most urgent, 9 least. Default: the task's."""
    ts: Annotated[float | None, WithJsonSchema({})] = None
    """When the input was measured: RFC 3339, or seconds or milliseconds since 1970. The deadline counts from then, if
    the board's clock is set. Anything else is ignored. Default: what the task's `time` finds in the input, otherwise
    the arrival."""
    stream: StrictBool = False
    """Partial replies while the answer is written; `generate` alone has them."""
    audit: StrictBool = True
    """`false`: the reply never asks for feedback, and the request is not drawn for an audit."""
    options: Options = Options()

    @field_validator("ts", mode="before")
    @classmethod
    def _parse_ts(cls, value: object) -> object:
        # Earlier versions ignored this key, so callers may use it for something else.
        return parse_device_time(value)

    @field_validator("id", mode="before")
    @classmethod
    def _check_id(cls, value: object) -> object:
        if type(value) is not int and not (isinstance(value, str) and 1 <= len(value) <= 128):
            raise ValueError("should be a string of 1 to 128 characters or an integer")
        return value


class BareInput(Envelope):
    """A payload that is the input itself; the rest is as in an envelope that holds nothing else."""


def parse_payload(payload: bytes, content_type: str | None, *, is_reading: bool = False) -> Envelope:
    """Reads an envelope, or a bare input with defaults. Raises Refusal(not_utf8, bad_json, bad_field).

    All of a reading is the input, because it came from a sensor's topic.
    """
    if not payload:
        raise Refusal(Code.BAD_FIELD, "payload: should not be empty")
    try:
        text = payload.decode("utf-8")
        value = parse_json(text) if is_json(text, content_type) else text
    except UnicodeDecodeError as error:
        raise Refusal(Code.NOT_UTF8, f"payload: should be UTF-8 ({error.reason} at byte {error.start})") from error
    except NotJsonError as error:
        raise Refusal(Code.BAD_JSON, f"payload: should be strict JSON: {error}") from error
    if not isinstance(value, (dict, list)):
        return BareInput(input=text)  # `42` is the text "42", whatever the Content Type
    if is_reading or isinstance(value, list) or "input" not in value:
        return BareInput(input=value)
    try:
        envelope = Envelope.model_validate(value)
    except ValidationError as error:
        raise Refusal(Code.BAD_FIELD, first_fault(error, allowed_keys=Options.model_fields)) from error
    if not isinstance(envelope.input, (str, dict, list)):
        raise Refusal(Code.BAD_FIELD, f"input: should be a string, an object or an array (got {shown(envelope.input)})")
    return envelope


def is_json(text: str, content_type: str | None) -> bool:
    """Content Type decides where it is given: application/json is parsed, text/* never is."""
    media_type = (content_type or "").split(";")[0].strip().lower()
    if media_type.startswith("text/"):
        return False
    return media_type == "application/json" or text.lstrip(" \t\r\n")[:1] in ("{", "[")
