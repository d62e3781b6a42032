"""PURE. The messages that the agent sends, of a document or of JSON that is encoded already."""

from __future__ import annotations

from typing import Any

from edge_agent.messages import encode
from edge_agent.mqtt_link import Publication

JSON = "application/json"


def json_publication(
    topic: str,
    document: dict[str, Any] | bytes,
    *,
    qos: int = 1,
    retain: bool = False,
    expiry_s: int | None = None,
    correlation: bytes | None = None,
) -> Publication:
    payload = document if isinstance(document, bytes) else encode(document)
    return Publication(
        topic=topic,
        payload=payload,
        qos=qos,
        retain=retain,
        expiry_s=expiry_s,
        correlation=correlation,
        content_type=JSON,
    )


def emptied(topic: str) -> Publication:
    """Has the broker forget what it retains there."""
    return Publication(topic=topic, payload=b"", retain=True)
