"""What a connection to the broker reports: messages, and whether the connection is up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from edge_agent.core.inbound import Message

if TYPE_CHECKING:  # link.py creates these events
    from edge_agent.mqtt.link import MqttLink

TAKEN_OVER = "Session taken over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message that waits for `link.acknowledge`. epoch: counts the connections of the link."""

    link: MqttLink
    epoch: int
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    link: MqttLink


class Broken(StrEnum):
    """How far a connection had come when it broke."""

    NOT_REACHED = "not reached"  # no TCP connection, or no TLS over it
    NOT_ANSWERED = "not answered"  # no CONNACK
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The connection was lost, or an attempt failed. reason: in the words of the broker or the system."""

    link: MqttLink
    broken: Broken
    reason: str


LinkEvent = Received | Connected | Disconnected
