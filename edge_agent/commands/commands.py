"""Commands from the bus: who may, whether it is well formed, and what to answer. The agent does the deeds."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError, field_validator

from edge_agent.commands.nonces import Nonces
from edge_agent.core.errors import first_fault, shown
from edge_agent.core.strict_json import NotJsonError, encode, parse_json
from edge_agent.models.switch_attempt import SwitchError

MAX_AGE_S = 60.0


# No command needs a hundredth of it; and a result holds its `id`, and waits for a broker that may be away.
MAX_COMMAND_BYTES = 1 << 16


class CommandError(Exception):
    """The command is not carried out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Fields(BaseModel):
    """Of any command."""

    # A misspelt `reply_to` would cancel everybody's request of that id.
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Any = None
    ts: Any = None
    nonce: Any = None
    hmac: Any = None


_T = TypeVar("_T", bound=Fields)


class DrainFields(Fields):
    timeout_s: Annotated[float, Field(ge=0, le=3600, strict=True)] | None = None


class CancelFields(Fields):
    request_id: str | int
    reply_to: StrictStr | None = None

    @field_validator("request_id", mode="plain")
    @classmethod
    def _check_id(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError("should be a string or an integer")  # noqa: TRY004 - for pydantic
        return value


class ReleaseFields(Fields):
    fingerprint: Annotated[StrictStr, Field(pattern="^[0-9a-f]{16}$")]


class RollbackFields(Fields):
    """model: of the [models.NAME] tables, of which there is one."""

    model: Literal["default"]


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
        message = f"payload: should have at most {MAX_COMMAND_BYTES} bytes (got {len(payload)})"
        raise CommandError("too_long", message)
    try:
        value = parse_json(payload.decode("utf-8")) if payload.strip() else {}
    except UnicodeDecodeError as error:
        raise CommandError("not_utf8", f"payload: should be UTF-8 ({error.reason} at byte {error.start})") from error
    except NotJsonError as error:
        raise CommandError("bad_json", f"payload: should be strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise CommandError("bad_field", f"payload: should be an object (got {shown(value)})")
    return value


def fields_of(kind: type[_T], fields: dict[str, Any]) -> _T:
    """A command's fields as its kind has them. Raises CommandError."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise CommandError("bad_field", first_fault(error, known=kind.model_fields, model=kind)) from error


def encode_result(identity: Any, data: Any = None, error: CommandError | SwitchError | None = None) -> bytes:
    """The reply on `cmd/<op>/result`."""
    return encode(
        {
            "id": identity,
            "status": "failed" if error else "ok",
            "error": {"code": error.code, "message": error.message} if error else None,
            "data": data,
        }
    )


def _text(name: str, value: object) -> str:
    if isinstance(value, str) and value:
        return value
    message = f"{name}: should be a string, and not empty (got {shown(value)}); this board wants signed commands"
    raise CommandError("unauthorized", message)


def _seconds(ts: object) -> float | None:
    try:
        moment = datetime.fromisoformat(ts) if isinstance(ts, str) else None
    except ValueError:
        return None
    return None if moment is None or moment.tzinfo is None else moment.timestamp()


class Authority:
    """Refuses commands without a fresh HMAC, where a key is configured."""

    def __init__(self, key: bytes | None, nonces: Nonces | None = None) -> None:
        """nonces: of commands that were carried out before; None = of none."""
        self._key = key
        self._nonces = Nonces() if nonces is None else nonces

    def check(self, operation: str, fields: dict[str, Any], now: float, known_s: float = MAX_AGE_S) -> None:
        """Raises CommandError(unauthorized).

        now: seconds since 1970. known_s: for how long, by no clock that is set, this agent has been here; what came to
        an earlier one that lost its nonces is not for this one.
        """
        if self._key is None:
            return
        if not self._key:
            raise CommandError("unauthorized", "the key file of this board is empty: no command can be signed for it")
        signed = dict(fields)
        given, nonce = _text("hmac", signed.pop("hmac", None)), _text("nonce", signed.get("nonce"))
        ts = _seconds(signed.get("ts"))
        since = now - min(known_s, MAX_AGE_S)
        if ts is None or not since <= ts <= now + MAX_AGE_S:
            here, start = (datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") for at in (now, now - known_s))
            allowed = f"within {MAX_AGE_S:.0f} s of the time here, {here}, and after the agent's start, {start}"
            message = f"ts: should be an RFC 3339 time {allowed} (got {shown(signed.get('ts'))})"
            raise CommandError("unauthorized", message)
        if not hmac.compare_digest(given.lower().encode(), self.sign(operation, signed).encode()):
            raise CommandError("unauthorized", "hmac: does not fit the command")
        if nonce in self._nonces:
            raise CommandError("unauthorized", "nonce: seen before")
        self._nonces.add(nonce)

    def sign(self, operation: str, fields: dict[str, Any]) -> str:
        """Hex HMAC-SHA-256 over `<operation>\\n` and the canonical JSON of the fields."""
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hmac.new(self._key or b"", f"{operation}\n{canonical}".encode(), hashlib.sha256).hexdigest()
