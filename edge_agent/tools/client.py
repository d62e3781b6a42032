"""One connection to the broker for a tool: it subscribes, publishes, and takes messages one by one."""

import queue
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self

from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Message
from edge_agent.core.strict_json import parse_json
from edge_agent.mqtt.link import Connected, ConnectionFailed, FailedAt, LinkEvent, MqttLink, Received

MAX_PAYLOAD_BYTES = 1_000_000
_GOODBYE_S = 1.0
# When the queue is full the network thread waits, so a flood is slowed down at its socket.
_MAX_EVENTS = 10_000


def object_of(payload: bytes) -> dict[str, Any]:
    """The JSON object that a message holds. Raises ValueError with the reason."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"should be at most {MAX_PAYLOAD_BYTES} bytes (got {len(payload)})")
    value = parse_json(payload.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("should be a JSON object")  # noqa: TRY004 - the sender's fault
    return value


def object_or_empty(payload: bytes) -> dict[str, Any]:
    """The JSON object that a message holds; an empty one where it holds none."""
    try:
        return object_of(payload)
    except ValueError:
        return {}


class Client:
    """A connection that lives while the context is entered; it reconnects by itself.

    `connections` says how many were made. While there is none, `failed_at` says how far the latest attempt came, and
    `reason` why, in the words of the broker or the system.
    """

    def __init__(self, client_id: str, mqtt: MqttConfig, filters: Iterable[str]) -> None:
        self._events: queue.Queue[LinkEvent] = queue.Queue(_MAX_EVENTS)
        self._hosts = len(mqtt.hosts)
        self.link = MqttLink(client_id, mqtt, self._events.put, wants_retained=True)
        self.link.subscriptions.replace(filters)
        self.connections = 0
        self.is_connected = False
        self.failed_at: FailedAt | None = None
        self.reason = ""

    def __enter__(self) -> Self:
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop(_GOODBYE_S)

    def connect(self, timeout_s: float) -> bool:
        """Waits for a connection. Returns False after the time, or once each of the brokers has failed."""
        give_up_at = time.monotonic() + timeout_s
        failures = 0
        while not self.is_connected and failures < self._hosts and time.monotonic() < give_up_at:
            failures += isinstance(self._next(give_up_at), ConnectionFailed)
        return self.is_connected

    def receive(self, timeout_s: float) -> Message | None:
        """The next message; None after the time, or when the connection came up or went down."""
        event = self._next(time.monotonic() + timeout_s)
        return event.message if isinstance(event, Received) else None

    def messages(self, timeout_s: float) -> Iterator[Message]:
        """Each message as it arrives, until the time is over."""
        give_up_at = time.monotonic() + timeout_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            if (message := self.receive(left_s)) is not None:
                yield message

    def wait_until_sent(self, timeout_s: float) -> None:
        """Waits until the broker has confirmed or refused all that was published, or the time is over."""
        give_up_at = time.monotonic() + timeout_s
        while len(self.link.outbox) and time.monotonic() < give_up_at:
            self.receive(0.01)

    def _next(self, give_up_at: float) -> LinkEvent | None:
        try:
            event = self._events.get(timeout=max(0.0, give_up_at - time.monotonic()))
        except queue.Empty:
            return None
        match event:
            case Received():
                self.link.acknowledge(event)
            case Connected():
                self.is_connected, self.failed_at, self.reason = True, None, ""
                self.connections += 1
            case ConnectionFailed(failed_at=failed_at, reason=reason):
                self.is_connected, self.failed_at, self.reason = False, failed_at, reason
        return event
