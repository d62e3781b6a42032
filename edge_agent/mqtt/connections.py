"""The agent's two connections to the broker: what each carries, and how both fare."""

import json
import logging
from collections.abc import Callable
from typing import Any

from edge_agent.core.config import Config
from edge_agent.core.files import read_if_exists, write_atomically
from edge_agent.core.messages import Publication
from edge_agent.core.topics import discovery_status
from edge_agent.mqtt.link import TAKEN_OVER, WILL_DELAY_S, ConnectionFailed, FailedAt, LinkEvent, MqttLink

log = logging.getLogger(__name__)

# A data connection that is down for longer is a reason of health.
DATA_LOST_AFTER_S = 10.0
# So are this many connections lost within the last minute, and a message refused for good within ten minutes.
UNSTABLE_AFTER, UNSTABLE_WINDOW_S = 3, 60.0
REFUSED_WINDOW_S = 600.0
# In `state_dir`: every filter that the data connection's session at the broker may have. It outlives processes and
# configurations. If the file is lost, unwanted messages keep coming and are dropped.
SUBSCRIPTIONS_FILE = "subscriptions-1.json"


class Connections:
    """Belongs to the agent's thread; the network threads call `deliver` and `will`.

    `data` carries requests, readings and replies, `control` commands and everything that the board reports of itself.
    There are two because Receive Maximum counts per connection, and requests must not starve a command.
    """

    def __init__(
        self, config: Config, deliver: Callable[[LinkEvent], None], will: Callable[[], Publication], now: float
    ) -> None:
        prefix = f"{config.device.site}.{config.device.id}"
        # It starts clean each time, because commands that came while it was down are stale.
        # RabbitMQ (4.0), where pools are, does not retain a will that it delays, so a dead board would stay online.
        delay_s = WILL_DELAY_S if config.pool is None else 0
        self.control = MqttLink(f"{prefix}.control", config.mqtt, deliver, will=will, will_delay_s=delay_s)
        self.data = MqttLink(
            f"{prefix}.data",
            config.mqtt,
            deliver,
            is_persistent=True,
            follows=self.control,
            # RabbitMQ sends the next request once the claim is settled, so each PUBACK counts at once.
            reports_published=config.pool is not None,
        )
        self._links = (self.data, self.control)
        self._subscriptions_path = config.state_dir / SUBSCRIPTIONS_FILE
        self._known_filters = self._stored_filters()
        self._received = self._ignored = 0
        self._data_lost_at: float | None = now
        self._control_connected_at: float | None = None
        # Why each link cannot connect, which is logged once, not at each attempt.
        self._logged: set[tuple[MqttLink, str]] = set()

    def start(self) -> None:
        self.control.start()
        self.data.start()

    def subscribe(self, config: Config) -> None:
        """Subscribes to this configuration's requests, readings, commands, state and Home Assistant, nothing else."""
        filters = {config.topics.all_commands, config.topics.state}
        if config.homeassistant.enabled:
            filters.add(discovery_status(config.homeassistant.prefix))
        self.control.subscriptions.replace(filters)
        requests, former = frozenset((config.topics.all_requests, *config.reading_filters)), self._known_filters
        if config.feedback.enabled:
            requests |= {config.topics.all_feedback}
        self._store_filters(former | requests)  # before the broker gets them
        self.data.subscriptions.replace(requests, former)

    def _stored_filters(self) -> frozenset[str]:
        try:
            return frozenset(json.loads(read_if_exists(self._subscriptions_path) or "[]"))
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read, earlier subscriptions may remain: %s", self._subscriptions_path, error)
            return frozenset()

    def _store_filters(self, known: frozenset[str]) -> None:
        if known == self._known_filters:
            return
        self._known_filters = known
        try:
            write_atomically(self._subscriptions_path, json.dumps(sorted(known), indent=1).encode() + b"\n")
        except OSError as error:
            log.warning("%s cannot be written, subscriptions may remain: %s", self._subscriptions_path, error)

    @property
    def network_threads_alive(self) -> dict[str, bool]:
        """By client id, whether the network thread runs."""
        return {link.client_id: link.is_network_thread_alive for link in self._links}

    def publish_if_connected(self, publication: Publication) -> None:
        """For what is true only now. The next connection starts with the values of its own time."""
        if self.control.is_connected:
            self.control.publish(publication)

    def count_received(self, *, is_ignored: bool) -> None:
        self._received += 1
        self._ignored += is_ignored

    def on_connected(self, link: MqttLink, now: float) -> None:
        log.info("connected client=%s", link.client_id)
        self._logged = {(other, reason) for other, reason in self._logged if other is not link}
        if link is self.data:
            self._data_lost_at = None
        else:
            self._control_connected_at = now
        # Of several brokers, the data connection follows the control connection's.
        if self.control.is_connected and self.data.is_connected and self.data.host != self.control.host:
            log.info("the data connection moves broker=%s", self.control.broker)
            self.data.reconnect()

    def on_connection_failed(self, event: ConnectionFailed, now: float) -> None:
        link, reason = event.link, event.reason
        if event.failed_at is FailedAt.LOST:
            log.warning("disconnected client=%s reason=%s", link.client_id, reason)
        elif (link, reason) not in self._logged:
            self._logged.add((link, reason))
            log.warning(
                "cannot connect, trying again client=%s broker=%s reason=%s", link.client_id, link.broker, reason
            )
        if reason == TAKEN_OVER:
            log.error("another client connects as %s: two agents have the same site and id", link.client_id)
        if link is self.data:
            self._data_lost_at = self._data_lost_at or now
        else:
            self._control_connected_at = None

    def reconnect_stuck(self) -> None:
        """A new connection sends again what the broker has not confirmed."""
        for link in self._links:
            if link.is_connected and link.outbox.is_newly_stuck():
                log.warning("the broker confirms nothing, connecting again client=%s", link.client_id)
                link.reconnect()

    def data_lost_s(self, now: float) -> float | None:
        """How long the data connection has been down; None if it is not."""
        return None if self._data_lost_at is None else now - self._data_lost_at

    def as_health(self, now: float, *, postponed: int, lost: int) -> dict[str, Any]:
        """`postponed` counts the replies that the broker does not take now, `lost` those that no topic takes."""
        links = self._links
        return {
            "mqtt": {
                # The age of the control connection.
                "connected_s": None if self._control_connected_at is None else now - self._control_connected_at,
                "reconnects": sum(max(0, link.connects - 1) for link in links),
                "received": self._received,
                "published": sum(link.outbox.published for link in links),
                "queued_out": sum(len(link.outbox) for link in links) + postponed,
                "dropped": sum(link.outbox.dropped for link in links) + self._ignored + lost,
            }
        }

    def reasons(self, now: float) -> dict[str, bool]:
        """Whether each of its health reasons holds."""
        lost_at, links = self._data_lost_at, self._links
        # When a broker comes back, the data connection has this time to follow the control connection.
        control_since = self._control_connected_at or 0.0
        is_data_lost = lost_at is not None and now - max(lost_at, control_since) >= DATA_LOST_AFTER_S
        # Copies, because the network threads add to these.
        ends = [ended_at for link in links for ended_at in tuple(link.disconnects)]
        refusals = [refused_at for link in links for refused_at, _ in tuple(link.outbox.refusals)]
        return {
            "data-connection-lost": is_data_lost,
            "connection-unstable": sum(now - ended_at < UNSTABLE_WINDOW_S for ended_at in ends) >= UNSTABLE_AFTER,
            "publishing-refused": any(now - refused_at < REFUSED_WINDOW_S for refused_at in refusals),
            "subscription-refused": any(link.subscriptions.refused for link in links),
        }
