"""PURE. What a connection to the broker tells: messages that came, and how it fares itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which makes these
    from edge_agent.mqtt.link import MqttLink

TAKEN_OVER = "Session taken over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """One message as it came. received_at: seconds of the monotonic clock. epoch: the connection it came on."""

    link: MqttLink
    topic: str
    payload: bytes
    retain: bool
    duplicate: bool
    response_topic: str | None
    correlation: bytes | None
    content_type: str | None
    expiry_s: int | None
    received_at: float
    epoch: int
    packet_id: int
    qos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    link: MqttLink


class Broken(StrEnum):
    """How far a connection had come when it broke."""

    NOT_REACHED = "not reached"  # no TCP connection, or no TLS over it
    NOT_ANSWERED = "not answered"  # the broker closed it, or said nothing to our CONNECT
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The connection was lost, or an attempt failed. reason: the broker's or the system's own words."""

    link: MqttLink
    broken: Broken
    reason: str


LinkEvent = Inbound | Connected | Disconnected
