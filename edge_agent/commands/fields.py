"""The payloads of commands and of their results."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError, field_validator

from edge_agent.core.codes import CommandCode, CommandError
from edge_agent.core.messages import Publication, json_publication
from edge_agent.core.strict_json import NotJsonError, parse_json
from edge_agent.core.wording import first_fault, shown

# A result holds the command's `id`, and waits for a broker that may be away.
MAX_COMMAND_BYTES = 1 << 16
MAX_BY_CHARS = 64


class CommandFields(BaseModel):
    # A misspelt `reply_to` would cancel the requests of all callers with that id.
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Any = None
    by: Annotated[StrictStr, Field(min_length=1, max_length=MAX_BY_CHARS)] | None = None
    """Who sends the command. It is not checked."""
    ts: Any = None
    nonce: Any = None
    hmac: Any = None


_T = TypeVar("_T", bound=CommandFields)


class DrainFields(CommandFields):
    timeout_s: Annotated[float, Field(ge=0, le=3600, strict=True)] | None = None


class CancelFields(CommandFields):
    request_id: str | int
    reply_to: StrictStr | None = None

    @field_validator("request_id", mode="plain")
    @classmethod
    def _check_id(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError("should be a string or an integer")  # noqa: TRY004 - for pydantic
        return value


class ExportFields(CommandFields):
    task: StrictStr
    after: Annotated[int, Field(ge=0, strict=True)] = 0
    """The number of the last answer that the caller has."""
    limit: Annotated[int, Field(ge=1, le=500, strict=True)] = 200


class ReleaseFields(CommandFields):
    fingerprint: Annotated[StrictStr, Field(pattern="^[0-9a-f]{16}$")]


class RollbackFields(CommandFields):
    model: Literal["default"] = "default"
    """The name of a [models.NAME] table, of which there is one."""


class SwitchFields(RollbackFields):
    bundle: StrictStr
    allow_downgrade: StrictBool = False

    @field_validator("bundle")
    @classmethod
    def _check_bundle(cls, bundle: str) -> str:
        if bundle in ("", ".", "..") or not bundle.isprintable() or "/" in bundle:
            raise ValueError("should be the name of a folder in models_dir")
        return bundle


def parse_command(payload: bytes) -> dict[str, Any]:
    """The command's fields; an empty payload has none. Raises CommandError."""
    if len(payload) > MAX_COMMAND_BYTES:
        message = f"payload: should be at most {MAX_COMMAND_BYTES} bytes (got {len(payload)})"
        raise CommandError(CommandCode.TOO_LONG, message)
    try:
        value = parse_json(payload.decode("utf-8")) if payload.strip() else {}
    except UnicodeDecodeError as error:
        raise CommandError(
            CommandCode.NOT_UTF8, f"payload: should be UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    except NotJsonError as error:
        raise CommandError(CommandCode.BAD_JSON, f"payload: should be strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise CommandError(CommandCode.BAD_FIELD, f"payload: should be an object (got {shown(value)})")
    return value


def parse_fields(fields_class: type[_T], fields: dict[str, Any]) -> _T:
    """The fields of one kind of command. Raises CommandError."""
    try:
        return fields_class.model_validate(fields)
    except ValidationError as error:
        raise CommandError(CommandCode.BAD_FIELD, first_fault(error, allowed_keys=fields_class.model_fields)) from error


def result_publication(
    topic: str, correlation: bytes | None, command_id: Any, data: Any, error: tuple[str, str] | None
) -> Publication:
    """The result of a command that was carried out, or failed with a code and a message."""
    result = {
        "id": command_id,
        "status": "failed" if error else "ok",
        "error": {"code": error[0], "message": error[1]} if error else None,
        "data": data,
    }
    return json_publication(topic, result, correlation=correlation)
