"""The messages on the bus: what the broker delivers, and what the agent sends."""

from dataclasses import dataclass
from typing import Any

from edge_agent.core.strict_json import encode

JSON, TEXT = "application/json", "text/plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one PUBLISH packet says; the fields that may be None need MQTT 5."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int  # A redelivery keeps it.
    is_retained: bool = False
    is_duplicate: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    content_type: str | None = None
    expiry_s: int | None = None
    received_at: float  # Seconds of the monotonic clock.
    machine: str | None = None  # The machine, if the reading is one of `[signals]`.
    fault: str | None = None  # Why the board could not make this reading of `[signals]`, which is then refused.
    is_fault_repeated: bool = False  # Whether the machine's last reading could not be made either.


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One message to send; the fields that may be None need MQTT 5."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry_s: int | None = None
    correlation: bytes | None = None
    content_type: str | None = None
    response_topic: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A terminal reply."""

    topic: str
    document: bytes  # All of the reply, as JSON.
    correlation: bytes | None = None
    output: bytes | None = None  # What is sent instead of the document, if anything is.
    content_type: str = JSON  # The type of what is sent.
    retain: bool = False  # It is not stored, so what the next process sends again is not retained.


def json_publication(
    topic: str,
    document: dict[str, Any] | bytes,
    *,
    retain: bool = False,
    expiry_s: int | None = None,
    correlation: bytes | None = None,
) -> Publication:
    """A message of JSON; a document of bytes is already encoded."""
    payload = document if isinstance(document, bytes) else encode(document)
    return Publication(
        topic=topic, payload=payload, retain=retain, expiry_s=expiry_s, correlation=correlation, content_type=JSON
    )


def clear_retained(topic: str) -> Publication:
    """Removes what the broker retains there."""
    return Publication(topic=topic, payload=b"", retain=True)
