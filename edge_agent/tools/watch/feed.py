"""A site's messages, from the broker into the model."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge_agent.core.config import MqttConfig
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import Connected, Disconnected, LinkEvent, Received
from edge_agent.tools.watch.arrival import Now
from edge_agent.tools.watch.judgement import duration
from edge_agent.tools.watch.row import Row
from edge_agent.tools.watch.site import Site

# Past this the network thread waits: a flood is slowed down at its socket.
MAX_EVENTS = 10_000


class Feed:
    """connected_at, heard_at: seconds of the monotonic clock. The network thread only fills the queue."""

    def __init__(self, mqtt: MqttConfig, site: str) -> None:
        self._site = Site(mqtt.root, site)
        self._events: queue.Queue[LinkEvent] = queue.Queue(MAX_EVENTS)
        self._link = MqttLink(f"watch-{secrets.token_hex(8)}", mqtt, self._events.put, wants_retained=True)
        self._link.set_subscriptions(self._site.filters)
        self._lost_at = time.monotonic()
        self.connected_at: float | None = None
        self.heard_at = 0.0
        self.reason: str | None = None
        self.broker = self._link.broker
        self.topics = f"{mqtt.root}/{site}/+"

    @contextmanager
    def open(self) -> Iterator[None]:
        self._link.start()
        try:
            yield
        finally:
            self._link.stop(0.5)

    def take(self, timeout_s: float = 0.0) -> bool:
        """Takes what has come, after waiting for the first of it; False if there was nothing."""
        taken = 0
        while taken < MAX_EVENTS:
            try:
                event = self._events.get(block=not taken and timeout_s > 0, timeout=timeout_s)
            except queue.Empty:
                break
            self._take(event)
            taken += 1
        return taken > 0

    def rows(self) -> list[Row]:
        return self._site.rows(_now())

    def is_settled(self) -> bool:
        return self._site.is_settled(_now())

    @property
    def is_full(self) -> bool:
        return self._site.is_full

    @property
    def trouble(self) -> str | None:
        """Why nothing comes from the broker, or None."""
        if self.connected_at is not None:
            return None
        lost_s = time.monotonic() - self._lost_at
        since = f" for {duration(lost_s)}" if lost_s >= 1 else ""
        return f"no connection to the broker {self.broker}{since}" + (f": {self.reason}" if self.reason else "")

    def _take(self, event: LinkEvent) -> None:
        match event:
            case Received(message=message):
                self._link.acknowledge(event)
                self.heard_at = time.monotonic()
                is_live = not message.is_retained
                self._site.take(message.topic, message.payload, _now(), is_live=is_live, expiry_s=message.expiry_s)
            case Connected():
                self.connected_at, self.reason = time.monotonic(), None
                self._site.connected(_now())
            case Disconnected(reason=reason):
                if self.connected_at is not None:
                    self.connected_at, self._lost_at = None, time.monotonic()
                self.reason = reason


def _now() -> Now:
    return Now(at=time.monotonic(), wall=time.time())
