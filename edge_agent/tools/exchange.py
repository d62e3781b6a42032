"""A connection of its own for a program that sends one message and waits for what answers it."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self

from edge_agent.core.config import MqttConfig
from edge_agent.core.publications import Publication
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import Disconnected, LinkEvent, Received

_GOODBYE_S = 1.0


class NoAnswerError(Exception):
    """No broker, or no answer in time."""


class Exchange:
    """Connected while it is entered. timeout_s: for all of it. wants_retained: as of MqttLink."""

    def __init__(
        self, name: str, mqtt: MqttConfig, filters: Iterable[str], *, timeout_s: float, wants_retained: bool = False
    ) -> None:
        self.is_sent = False
        self._brokers = len(mqtt.hosts)
        self._events: queue.Queue[LinkEvent] = queue.Queue()
        self._link = MqttLink(name, mqtt, self._events.put, wants_retained=wants_retained)
        self._link.set_subscriptions(filters)
        self._give_up_at = time.monotonic() + timeout_s

    def __enter__(self) -> Self:
        self._link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop(_GOODBYE_S)

    def send(self, publication: Publication) -> None:
        """Once."""
        self._link.publish(publication)
        self.is_sent = True

    def events(self) -> Iterator[LinkEvent]:
        """Until the time is over. As long as nothing was sent, a broker that cannot be reached is told of the last."""
        failures = 0
        while True:
            try:
                event = self._events.get(timeout=max(0.0, self._give_up_at - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(event, Received):
                self._link.acknowledge(event)
            elif isinstance(event, Disconnected):
                failures += 1
                if not self.is_sent and failures < self._brokers:
                    continue
            yield event


def object_of(payload: bytes) -> dict[str, Any]:
    """An empty one for what is none: anybody may publish anything."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
