"""The payload of a request: an envelope, or a bare input."""

from __future__ import annotations

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
)

from edge_agent.core.codes import Code, Refusal
from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.wording import first_fault, shown

MAX_DEADLINE_MS = 86_400_000


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
        default=(), strict=False, max_length=8, fail_fast=True
    )
    reasoning: Literal["drop", "include"] = "drop"
    max_reasoning_tokens: Annotated[int, Field(ge=0, le=32768)] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: object) -> object:
        return (stop,) if isinstance(stop, str) else stop


class Envelope(BaseModel):
    """An object with a key `input`. Unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: Any
    id: str | int | None = None
    reply_to: StrictStr | None = None
    deadline_ms: Annotated[StrictInt, Field(ge=1, le=MAX_DEADLINE_MS)] | None = None
    priority: Annotated[StrictInt, Field(ge=0, le=9)] | None = None
    stream: StrictBool = False
    options: Options = Options()

    @field_validator("id", mode="before")
    @classmethod
    def _check_id(cls, value: object) -> object:
        if type(value) is not int and not (isinstance(value, str) and 1 <= len(value) <= 128):
            raise ValueError("should be a string of 1 to 128 characters or an integer")
        return value


def parse_payload(payload: bytes, content_type: str | None, *, is_reading: bool = False) -> Envelope:
    """Reads an envelope, or a bare input with defaults. Raises Refusal(not_utf8, bad_json, bad_field).

    is_reading: it came from a sensor's topic, so all of it is the input.
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
        return Envelope(input=text)  # `42` is the text "42", whatever the Content Type
    if is_reading or isinstance(value, list) or "input" not in value:
        return Envelope(input=value)
    try:
        envelope = Envelope.model_validate(value)
    except ValidationError as error:
        raise Refusal(Code.BAD_FIELD, first_fault(error, known=Options.model_fields)) from error
    if not isinstance(envelope.input, (str, dict, list)):
        raise Refusal(Code.BAD_FIELD, f"input: should be a string, an object or an array (got {shown(envelope.input)})")
    return envelope


def is_json(text: str, content_type: str | None) -> bool:
    """Content Type decides where it is given: application/json is parsed, text/* never is."""
    media_type = (content_type or "").split(";")[0].strip().lower()
    if media_type.startswith("text/"):
        return False
    return media_type == "application/json" or text.lstrip(" \t\r\n")[:1] in ("{", "[")
