"""What the store gives back to the process after the one that wrote it."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.core.clock import Moment
from edge_agent.core.inbound import Message

# A row's numbers, times and names.
_ROW_OVERHEAD_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request that has no reply yet. message.received_at: its first arrival, on this process's clock.

    is_given_up: two starts ended while they took over this request, so it is not run again.
    """

    row: int
    task: str
    message: Message
    is_given_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """A reply that a repeated request gets again. key: see requests/duplicates. nbytes: about its size on disk."""

    row: int
    key: bytes
    reply: bytes
    nbytes: int
    ended: Moment


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An input that ended the worker twice. since: RFC 3339, None = the clock was unset."""

    fingerprint: str
    task: str
    since: str | None


def row_bytes(reply_topic: str, reply: bytes, correlation: bytes | None) -> int:
    """About what an answer takes on disk."""
    return len(reply_topic) + len(reply) + len(correlation or b"") + _ROW_OVERHEAD_BYTES
