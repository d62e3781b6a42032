"""How requests end: statuses, codes, and refusals as exceptions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.core.strict_json import encode


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


_CODES_OF_STATUS = {
    Status.BUSY: (
        Code.QUEUE_FULL, Code.DEADLINE_UNREACHABLE, Code.LOADING, Code.DRAINING,
        Code.OVERHEATED, Code.POWER_LIMITED, Code.MEMORY_LOW, Code.RATE_LIMITED,
    ),
    Status.EXPIRED: (Code.DEADLINE,),
    Status.INVALID: (
        Code.NOT_UTF8, Code.BAD_JSON, Code.BAD_FIELD, Code.UNKNOWN_TASK,
        Code.TOO_LONG, Code.REPLY_TOPIC_REFUSED, Code.QUARANTINED,
    ),
    Status.CANCELLED: (Code.CANCELLED, Code.SUPERSEDED),
    Status.FAILED: (Code.ENGINE_LOST, Code.NO_VALID_OUTPUT, Code.INTERNAL),
}  # fmt: skip
_STATUS_OF_CODE = {code: status for status, codes in _CODES_OF_STATUS.items() for code in codes}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    name: str
    sha256: str
    quantization: str


def shortened(reply: bytes) -> bytes | None:
    """A short failure instead of a reply that is too large for the broker; None: the reply is one already."""
    document = json.loads(reply)
    if document["error"] is not None:
        return None
    message = f"the reply of {len(reply)} bytes cannot be sent: the broker takes no message of this size"
    document |= {"status": Status.FAILED.value, "degraded": []}
    document |= dict.fromkeys(("output", "scores", "finish", "reasoning", "model", "usage"))
    document["error"] = {"code": Code.INTERNAL.value, "message": message, "retry_after_s": None}
    return encode(document)
