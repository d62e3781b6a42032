"""How requests and commands end: statuses, codes, and refusals as exceptions."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Status(StrEnum):
    OK = "ok"
    BUSY = "busy"
    EXPIRED = "expired"
    INVALID = "invalid"
    CANCELLED = "cancelled"
    FAILED = "failed"
    PARTIAL = "partial"


# Whose fault a code is. In a pool, a request that fails because of its board goes to another one.
_OF_BOARD, _OF_REQUEST = True, False


class Code(StrEnum):
    """`error.code` of a reply, with its status, and whether another board may do better.

    The status also decides whether the reply is repeated.

    Besides where it is raised, a new code also goes into
    - docs/mqtt-api.md, and in the order here into docs/troubleshooting.md;
    - `_QUOTING` in requests/replies.py if its message may quote the caller, `_OVERLOAD` if too much is asked;
    - a ladder of board/governor.py if the governor refuses for it.
    Its replies need a `retry_after_s` if its status is `busy`.
    """

    status: Status
    may_succeed_elsewhere: bool

    def __new__(cls, value: str, status: Status, may_succeed_elsewhere: bool) -> Self:  # noqa: FBT001 - a table's row
        code = str.__new__(cls, value)
        code._value_ = value
        code.status = status
        code.may_succeed_elsewhere = may_succeed_elsewhere
        return code

    QUEUE_FULL = "queue_full", Status.BUSY, _OF_BOARD
    DEADLINE_UNREACHABLE = "deadline_unreachable", Status.BUSY, _OF_BOARD
    LOADING = "loading", Status.BUSY, _OF_BOARD
    DRAINING = "draining", Status.BUSY, _OF_BOARD
    OVERHEATED = "overheated", Status.BUSY, _OF_BOARD
    POWER_LIMITED = "power_limited", Status.BUSY, _OF_BOARD
    MEMORY_LOW = "memory_low", Status.BUSY, _OF_BOARD
    RATE_LIMITED = "rate_limited", Status.BUSY, _OF_REQUEST
    DEADLINE = "deadline", Status.EXPIRED, _OF_REQUEST
    NOT_UTF8 = "not_utf8", Status.INVALID, _OF_REQUEST
    BAD_JSON = "bad_json", Status.INVALID, _OF_REQUEST
    BAD_FIELD = "bad_field", Status.INVALID, _OF_REQUEST
    UNKNOWN_TASK = "unknown_task", Status.INVALID, _OF_BOARD
    TOO_LONG = "too_long", Status.INVALID, _OF_REQUEST
    REPLY_TOPIC_REFUSED = "reply_topic_refused", Status.INVALID, _OF_REQUEST
    QUARANTINED = "quarantined", Status.INVALID, _OF_REQUEST
    CANCELLED = "cancelled", Status.CANCELLED, _OF_REQUEST
    SUPERSEDED = "superseded", Status.CANCELLED, _OF_REQUEST
    ENGINE_LOST = "engine_lost", Status.FAILED, _OF_REQUEST
    NO_VALID_OUTPUT = "no_valid_output", Status.FAILED, _OF_REQUEST
    INTERNAL = "internal", Status.FAILED, _OF_REQUEST


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


class CommandCode(StrEnum):
    """`error.code` of the result of a command or of feedback, and `code` of an event about a model switch.

    A new one also goes into docs/mqtt-api.md, and in the order here into docs/troubleshooting.md; one whose message
    quotes the sender goes into `_QUOTING_CODES` in commands/commands.py.
    """

    UNKNOWN_COMMAND = "unknown_command"
    NOT_ALLOWED = "not_allowed"
    UNAUTHORIZED = "unauthorized"
    TOO_LONG = "too_long"
    NOT_UTF8 = "not_utf8"
    BAD_JSON = "bad_json"
    BAD_FIELD = "bad_field"
    UNKNOWN_TASK = "unknown_task"
    NOT_ENABLED = "not_enabled"
    NOT_FOUND = "not_found"
    AMBIGUOUS = "ambiguous"
    NOT_QUARANTINED = "not_quarantined"
    BAD_CONFIG = "bad_config"
    STOPPING = "stopping"
    DRAINING = "draining"
    NO_PREVIOUS = "no_previous"
    SWITCHING = "switching"
    BUNDLE_REFUSED = "bundle_refused"
    REVOKED = "revoked"
    REVOCATIONS_FAULTY = "revocations_faulty"
    EXPIRED = "expired"
    DOWNGRADE = "downgrade"
    LOAD_FAILED = "load_failed"
    CANARIES_DIFFER = "canaries_differ"
    NOT_RECORDED = "not_recorded"
    INTERNAL = "internal"


class CommandError(Exception):
    """A command, a model switch or feedback is refused; `code` is the `error.code` of its result."""

    def __init__(self, code: CommandCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
