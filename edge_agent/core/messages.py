"""The messages on the bus: what the broker delivers, and what the agent sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_agent.core.strict_json import encode

JSON, TEXT = "application/json", "text/plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one PUBLISH packet says. received_at: seconds of the monotonic clock.

    packet_id: a redelivery keeps it. response_topic, correlation, content_type and expiry_s need MQTT 5; None = absent.
    """

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    is_retained: bool = False
    is_duplicate: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    content_type: str | None = None
    expiry_s: int | None = None
    received_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One message to send. expiry_s, correlation, content_type and response_topic need MQTT 5."""

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
    """A terminal reply. document: all of it, as JSON. output: what is sent in its place; None = the document is sent.

    content_type: of what is sent.
    """

    topic: str
    document: bytes
    correlation: bytes | None = None
    output: bytes | None = None
    content_type: str = JSON


def json_publication(
    topic: str,
    document: dict[str, Any] | bytes,
    *,
    retain: bool = False,
    expiry_s: int | None = None,
    correlation: bytes | None = None,
) -> Publication:
    """document: bytes = JSON that is already encoded."""
    payload = document if isinstance(document, bytes) else encode(document)
    return Publication(
        topic=topic, payload=payload, retain=retain, expiry_s=expiry_s, correlation=correlation, content_type=JSON
    )


def emptied(topic: str) -> Publication:
    """Removes what the broker retains there."""
    return Publication(topic=topic, payload=b"", retain=True)
