"""A message as the broker delivered it."""

from __future__ import annotations

from dataclasses import dataclass


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
