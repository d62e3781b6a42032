"""The agent's two connections to the broker: what goes out on which, and how they fare."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edge_agent.core.config import Config
from edge_agent.core.publications import Publication
from edge_agent.core.topics import discovery_status
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import TAKEN_OVER, Broken, Disconnected, LinkEvent
from edge_agent.mqtt.subscriptions import Subscriptions

log = logging.getLogger(__name__)

UNSTABLE_WINDOW_S = 60.0
# The connections come back one after the other. Three times the longest pause between two attempts.
SETTLES_WITHIN_S, LEAVES_AFTER_S, LEAVES_AT_LAST_S = 2.0, 45.0, 1800.0
# Whoever looks after a while is to see it still.
REFUSED_WINDOW_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttFacts:
    """What health reports of both connections. None = not so.

    connected_s: age of the control connection; data_lost_s: how long the data connection is down.
    disconnects_lately: within the last minute; refused_lately: messages that the broker refused within ten minutes.
    unheard: subscriptions that the broker refuses.
    """

    connected_s: float | None
    reconnects: int
    received: int
    published: int
    queued_out: int
    dropped: int
    disconnects_lately: int
    refused_lately: int
    unheard: int
    data_lost_s: float | None


class Connections:
    """Belongs to the agent's thread; `deliver` and `will` are called by the network threads.

    data: requests, readings and replies. control: commands, state and all else that the board tells of itself.
    """

    def __init__(
        self, config: Config, deliver: Callable[[LinkEvent], None], will: Callable[[], Publication], now: float
    ) -> None:
        prefix = f"{config.device.site}.{config.device.id}"
        # Commands that came while this connection was down are stale: it starts clean each time.
        self.control = MqttLink(f"{prefix}.control", config.mqtt, deliver, will=will)
        self.data = MqttLink(f"{prefix}.data", config.mqtt, deliver, is_persistent=True, beside=self.control)
        self._subscriptions = Subscriptions(config.state_dir)
        self._requests: frozenset[str] = frozenset()
        self._has_choice = len(config.mqtt.hosts) > 1
        self._apart_since: float | None = None
        self._leaves_after_s = LEAVES_AFTER_S
        self.received = self.ignored = 0
        self._data_lost_at: float | None = now
        self._control_connected_at: float | None = None
        self._told: set[tuple[MqttLink, str]] = set()  # why a connection that is still down could not be made

    def start(self) -> None:
        self.control.start()
        self.data.start()

    def listen(self, config: Config, requests: Iterable[str]) -> None:
        """From now on: to this configuration's commands, state and Home Assistant, and to these filters of requests."""
        filters = {config.topics.all_commands, config.topics.state}
        if config.homeassistant.enabled:
            filters.add(discovery_status(config.homeassistant.prefix))
        self.control.set_subscriptions(filters)
        self._requests = frozenset(requests)
        self.data.set_subscriptions(self._requests, self._subscriptions.want(self._requests))

    def tend(self, now: float) -> None:
        """To be called now and then."""
        self._keep_together(now)
        if self.data.is_connected and not self.data.former:
            self._subscriptions.are(self._requests)

    def _keep_together(self, now: float) -> None:
        """Of several brokers, one has both: what the board says of itself is to be true where its requests come in."""
        data, control = self.data, self.control
        is_together = data.is_connected and data.host == control.host
        if not self._has_choice or not control.is_connected or is_together:
            self._apart_since = None
            self._leaves_after_s = LEAVES_AFTER_S if is_together else self._leaves_after_s
            return
        self._apart_since = self._apart_since or now
        apart_s = now - self._apart_since
        if data.is_connected and apart_s >= SETTLES_WITHIN_S:
            data.leave()
        elif apart_s >= self._leaves_after_s:  # it does not take both
            log.error("broker %s takes one connection only, and is left for another", control.host)
            self._apart_since = None
            # None of them may: then it is better to stay where commands are heard.
            self._leaves_after_s = min(2 * self._leaves_after_s, LEAVES_AT_LAST_S)
            control.leave()

    @property
    def are_at_work(self) -> dict[str, bool]:
        """Whether the thread of each is alive."""
        return {link.client_id: link.is_at_work for link in (self.data, self.control)}

    def tell(self, publication: Publication) -> None:
        """Results of commands, events: kept until the broker has them."""
        self.control.publish(publication)

    def announce(self, publication: Publication) -> None:
        """What is true only now is not kept for later: at the next connection it is told anew, with its own session."""
        if self.control.is_connected:
            self.tell(publication)

    def connected(self, link: MqttLink, now: float) -> None:
        log.info("connected client=%s", link.client_id)
        self._told = {(other, reason) for other, reason in self._told if other is not link}
        if link is self.data:
            self._data_lost_at = None
        else:
            self._control_connected_at = now

    def disconnected(self, event: Disconnected, now: float) -> None:
        if event.broken is Broken.LOST:
            log.warning("disconnected client=%s reason=%s", event.link.client_id, event.reason)
        elif (event.link, event.reason) not in self._told:
            # A broker that is away for a night is no news at each attempt.
            self._told.add((event.link, event.reason))
            log.warning(
                "not connected client=%s broker=%s reason=%s: it is tried again until it succeeds",
                event.link.client_id, event.link.broker, event.reason,
            )  # fmt: skip
        if event.reason == TAKEN_OVER:
            log.error("another client connects as %s: two agents have the same site and id", event.link.client_id)
        if event.link is self.data:
            self._data_lost_at = self._data_lost_at or now
        else:
            self._control_connected_at = None

    def facts(self, now: float, *, postponed: int) -> MqttFacts:
        """postponed: messages that the broker took no time for; they are sent again."""
        links = (self.data, self.control)
        return MqttFacts(
            connected_s=None if self._control_connected_at is None else now - self._control_connected_at,
            reconnects=sum(max(0, link.connects - 1) for link in links),
            received=self.received,
            published=sum(link.outbox.published for link in links),
            queued_out=sum(len(link.outbox) for link in links) + postponed,
            dropped=sum(link.outbox.dropped for link in links) + self.ignored,
            # Copies, which are made at once: the network threads add to them.
            disconnects_lately=sum(now - at < UNSTABLE_WINDOW_S for link in links for at in tuple(link.disconnects)),
            refused_lately=sum(now - at < REFUSED_WINDOW_S for link in links for at, _ in tuple(link.outbox.refusals)),
            unheard=sum(len(link.unheard) for link in links),
            data_lost_s=None if self._data_lost_at is None else now - self._data_lost_at,
        )
