"""PURE. What becomes of a request: how it ended, why it was refused, and the reply that tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from edge_agent.core.errors import cut
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


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)
