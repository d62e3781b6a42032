"""What RabbitMQ delivers, as a message of MQTT.

RabbitMQ turns a message of its MQTT plugin into one of AMQP 0.9.1: `/` of the topic is `.` in the routing key, and the
properties of MQTT 5 are headers (https://www.rabbitmq.com/docs/mqtt).
"""

import math
import time
from typing import Any

from pika import BasicProperties
from pika.spec import Basic

from edge_agent.core.clock import timestamp
from edge_agent.core.messages import Message
from edge_agent.pool.queues import topic_of

# RabbitMQ's stamp of the arrival, in milliseconds since 1970 (message_interceptors.incoming.set_header_timestamp).
_STAMP = "timestamp_in_ms"


def message_of(
    routing_key: str | bytes, tag: int, properties: BasicProperties, payload: bytes, *, received_at: float
) -> Message:
    """A delivery as it would have come by MQTT. `tag` is the delivery's; `received_at` is as in Message."""
    headers: dict[str, Any] = properties.headers or {}
    # The header is for what AMQP's property cannot hold: bytes that are not UTF-8, and longer texts.
    correlation = headers.get("x-correlation-id") if properties.correlation_id is None else properties.correlation_id
    if isinstance(correlation, str):
        correlation = correlation.encode()
    reply_to = headers.get("x-reply-to-topic")
    return Message(
        topic=topic_of(_text(routing_key)),
        payload=payload,
        qos=1,
        packet_id=-tag,  # No packet of MQTT has such a number.
        response_topic=topic_of(reply_to) if isinstance(reply_to, str) else None,
        correlation=correlation if isinstance(correlation, bytes) else None,
        content_type=properties.content_type,
        expiry_s=_expiry_s(properties.expiration),
        received_at=received_at,
    )


def _text(words: str | bytes) -> str:
    """pika leaves what is not UTF-8 as bytes."""
    return words if isinstance(words, str) else words.decode("utf-8", "replace")


def _expiry_s(expiration: str | None) -> int | None:
    """Takes the milliseconds that RabbitMQ gives as text."""
    return math.ceil(int(expiration) / 1000) if expiration is not None and expiration.isdecimal() else None


def waited_s_of(properties: BasicProperties) -> float | None:
    """Time since the broker got the message, by the clocks of both; None without its stamp or the time of day here."""
    stamp_ms = (properties.headers or {}).get(_STAMP)
    if not isinstance(stamp_ms, int) or timestamp() is None:
        return None
    return max(0.0, time.time() - stamp_ms / 1000)


def deliveries_of(delivery: Basic.Deliver, properties: BasicProperties) -> int:
    """How often boards got the message, this time included; 2 or more if the broker only says that they did."""
    before = (properties.headers or {}).get("x-delivery-count", 0)
    known = before if isinstance(before, int) else 0
    return 1 + max(known, int(delivery.redelivered))


def death_of(properties: BasicProperties) -> tuple[str, str | bytes]:
    """Why a dead letter is one, and the routing key that it was sent with."""
    match (properties.headers or {}).get("x-death"):
        case [{"reason": str(reason), "routing-keys": [str() | bytes() as key, *_]}, *_]:
            return reason, key
    return "unknown", ""
