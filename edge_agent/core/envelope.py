"""The payload of a request: an envelope, or a bare input."""

from __future__ import annotations

import re
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
    field_validator,
    model_validator,
)

from edge_agent.core.errors import first_fault, shown
from edge_agent.core.messages import Code, Error, Refusal
from edge_agent.core.strict_json import NotJsonError, parse_json

MAX_DEADLINE_MS = 86_400_000
_MAX_STOPS = 8


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
        default=(), strict=False, max_length=_MAX_STOPS
    )
    reasoning: Literal["drop", "include"] = "drop"
    max_reasoning_tokens: Annotated[int, Field(ge=0, le=32768)] | None = None

    _check_null = field_validator("max_tokens", "seed", "max_reasoning_tokens", mode="before")(_refuse_null)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: object) -> object:
        if isinstance(stop, str):
            return (stop,)
        if not isinstance(stop, list) or len(stop) > _MAX_STOPS:
            # For a longer list pydantic would report a fault per item.
            raise ValueError(f"should be a string or a list of at most {_MAX_STOPS} strings")
        return stop

    @model_validator(mode="before")
    @classmethod
    def _one_unknown_key(cls, options: object) -> object:
        if not isinstance(options, dict):
            return options
        unknown = next((key for key in options if key not in cls.model_fields), None)
        # One unknown key is enough for the refusal; pydantic would report each.
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


# Messages with these codes may quote the caller, or an answer made from the input.
_QUOTING = {Code.BAD_JSON, Code.BAD_FIELD, Code.UNKNOWN_TASK, Code.REPLY_TOPIC_REFUSED, Code.NO_VALID_OUTPUT}
_OPTION = f"options\\.(?:{'|'.join(Options.model_fields)})"
_FIELD = re.compile(rf"(?:payload|task|response topic|{_OPTION}|{'|'.join(Envelope.model_fields)})\b")


def loggable(error: Error) -> str:
    """The message for the log; only its field where it may quote the caller."""
    if error.code not in _QUOTING:
        return error.message
    field = _FIELD.match(error.message)
    return field[0] if field else "no field"


def parse_payload(payload: bytes, content_type: str | None) -> Envelope:
    """Reads an envelope, or a bare input with defaults. Raises Refusal(not_utf8, bad_json, bad_field)."""
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
        raise Refusal(Code.BAD_FIELD, first_fault(error, known=Options.model_fields, model=Envelope)) from error
    if not isinstance(envelope.input, (str, dict, list)):
        raise Refusal(Code.BAD_FIELD, f"input: should be a string, an object or an array (got {shown(envelope.input)})")
    return envelope


def parse_bare(payload: bytes, content_type: str | None) -> Envelope:
    """Reads a message from a sensor's topic: all of it is the input. Raises Refusal(not_utf8, bad_json, bad_field)."""
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
