"""How requests and commands end: statuses, codes, and refusals as exceptions."""

from __future__ import annotations

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


class Code(StrEnum):
    """`error.code` of a reply, and the status that belongs to it, which decides whether the reply is repeated.

    A new code also goes into the table in docs/mqtt-api.md, and into replies._QUOTING if its message quotes the caller.
    """

    status: Status

    def __new__(cls, value: str, status: Status = Status.FAILED) -> Self:
        code = str.__new__(cls, value)
        code._value_ = value
        code.status = status
        return code

    QUEUE_FULL = "queue_full", Status.BUSY
    DEADLINE_UNREACHABLE = "deadline_unreachable", Status.BUSY
    LOADING = "loading", Status.BUSY
    DRAINING = "draining", Status.BUSY
    OVERHEATED = "overheated", Status.BUSY
    POWER_LIMITED = "power_limited", Status.BUSY
    MEMORY_LOW = "memory_low", Status.BUSY
    RATE_LIMITED = "rate_limited", Status.BUSY
    DEADLINE = "deadline", Status.EXPIRED
    NOT_UTF8 = "not_utf8", Status.INVALID
    BAD_JSON = "bad_json", Status.INVALID
    BAD_FIELD = "bad_field", Status.INVALID
    UNKNOWN_TASK = "unknown_task", Status.INVALID
    TOO_LONG = "too_long", Status.INVALID
    REPLY_TOPIC_REFUSED = "reply_topic_refused", Status.INVALID
    QUARANTINED = "quarantined", Status.INVALID
    CANCELLED = "cancelled", Status.CANCELLED
    SUPERSEDED = "superseded", Status.CANCELLED
    ENGINE_LOST = "engine_lost", Status.FAILED
    NO_VALID_OUTPUT = "no_valid_output", Status.FAILED
    INTERNAL = "internal", Status.FAILED


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


class CommandError(Exception):
    """A command, a model switch or feedback is refused; `code` is the `error.code` of its result."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
