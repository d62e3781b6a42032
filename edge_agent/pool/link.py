"""The connection by which this board takes requests of its pool.

Its thread alone uses the channel; the agent's thread hands it what to do.

Each place for a request is a consumer that gets one at a time: a busy board gets none, and the broker gives what waits
to the board that is free next. A quorum queue does not change the prefetch of a running consumer, so the number of
consumers changes instead.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from pika import BasicProperties, BlockingConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ConnectionWrongStateError
from pika.spec import Basic

from edge_agent.core.config import Config
from edge_agent.pool import amqp
from edge_agent.pool.claim import Claim
from edge_agent.pool.facts import PoolFacts, QueueFigures
from edge_agent.pool.messages import death_of, deliveries_of, message_of, waited_s_of
from edge_agent.pool.queues import queues_of, read_figures
from edge_agent.status.alarms import Finding

log = logging.getLogger(__name__)

# The number of consumers changes at most this often.
POLL_S = 0.25
# Two passive declarations for each board.
READ_FIGURES_S = 5.0
RATE_WINDOW_S = 60.0
# A request that is given back would otherwise return at once.
GIVE_BACK_AFTER_S = 0.1
BACK_OFF_S = (1.0, 15.0)
# How long a board that cannot reply keeps the requests of the pool that it has.
CLAIMS_KEPT_S = 10.0


class PoolLink:
    """Also a part of the status. Public methods are for the agent's thread."""

    def __init__(self, config: Config, deliver: Callable[[Claim], object]) -> None:
        """`deliver` gets each claim, on the link's thread."""
        assert config.pool is not None
        self._config = config
        self._deliver = deliver
        assert config.pool_topics is not None
        self._topics = config.pool_topics
        self._queues = queues_of(config)
        # None while others are to get the requests that this board has.
        self._wanted_places: int | None = 0
        # This connection's consumers, one for each place, and by delivery tag, which consumer got what is open.
        self._consumers: list[str] = []
        self._held: dict[int, str] = {}
        self._queue: QueueFigures | None = None
        self._connected_at: float | None = None
        # Why each host cannot be used. This is logged once, not at each attempt.
        self._logged_faults: set[tuple[str, str]] = set()
        self._claimed = self._given_back = self._repeated = 0
        # When each of the latest requests was taken, and how long the last one had waited then.
        self._taken_at: deque[float] = deque(maxlen=10_000)
        self._waited_s: float | None = None
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pool", daemon=True)

    def start(self) -> None:
        """Connects in the background, and again whenever the connection is lost."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Disconnects; the broker gives to other boards what this one did not settle."""
        self._is_stopping.set()
        self._thread.join(timeout_s)

    def set_places(self, places: int, *, unable_to_reply_s: float | None = None) -> None:
        """Sets how many requests of the pool this board may have at once.

        While it cannot reply, it takes none, and after CLAIMS_KEPT_S others get those that it has.
        """
        if unable_to_reply_s is None:
            self._wanted_places = places
        else:
            self._wanted_places = 0 if unable_to_reply_s < CLAIMS_KEPT_S else None

    def facts(self, now: float) -> PoolFacts:
        assert self._config.pool is not None
        connected_at = self._connected_at
        return PoolFacts(
            name=self._config.pool.name,
            connected_s=None if connected_at is None else now - connected_at,
            places=len(self._consumers),
            queue=self._queue,
            claimed_total=self._claimed,
            given_back_total=self._given_back,
            repeated_total=self._repeated,
            per_minute=sum(now - at < RATE_WINDOW_S for at in tuple(self._taken_at)),
            waited_ms=None if self._waited_s is None else self._waited_s * 1000,
        )

    def as_health(self, now: float) -> dict[str, Any]:
        return {"pool": self.facts(now).as_health()}

    def reasons(self) -> Mapping[str, bool]:
        return {}

    def findings(self, now: float) -> Mapping[str, Finding | None]:
        return self.facts(now).findings()

    def _run(self) -> None:
        failures = 0
        while not self._is_stopping.is_set():
            if self._wanted_places is None:
                self._is_stopping.wait(POLL_S)
                continue
            hosts = self._config.mqtt.hosts
            host = hosts[failures % len(hosts)]
            try:
                with amqp.connected(self._config, host) as connection:
                    self._serve(connection, host)
            except amqp.CONNECTION_ERRORS as error:
                self._on_fault(host, amqp.fault_text(error))
            except Exception:
                # A bug must not take the board out of its pool.
                log.exception("the pool's connection failed because of a bug")
            failures += 1
            if self._connected_at is not None:
                failures = 0  # The first host is tried first again.
            self._connected_at = self._queue = None
            self._consumers, self._held = [], {}
            shortest, longest = BACK_OFF_S
            # Without a bound, 2 ** failures overflows a float after some hours.
            pause_s = min(longest, shortest * 2 ** min(failures, 10))
            self._is_stopping.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311

    def _on_fault(self, host: str, fault: str) -> None:
        """Logs it once, not at each attempt."""
        if (host, fault) not in self._logged_faults:
            log.warning("the connection to the pool failed, trying again broker=%s:%d: %s", host, self.port, fault)
        self._logged_faults.add((host, fault))

    @property
    def port(self) -> int:
        return amqp.port_of(self._config)

    def _serve(self, connection: BlockingConnection, host: str) -> None:
        """Takes requests until the connection is no longer wanted. Raises if it is lost."""
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)  # of each consumer
        channel.add_on_cancel_callback(_raise_queue_gone)
        self._queue = read_figures(channel, self._queues)
        channel.basic_consume(self._queues.dead, self._on_delivery)
        self._connected_at = time.monotonic()
        self._logged_faults.clear()
        log.info("connected to the pool broker=%s:%d queue=%s", host, self.port, self._queues.requests)
        adjust_at, read_at = 0.0, time.monotonic() + READ_FIGURES_S
        while not self._is_stopping.is_set() and (wanted := self._wanted_places) is not None:
            now = time.monotonic()
            if now >= adjust_at:
                adjust_at = now + POLL_S
                self._adjust_consumers(channel, wanted)
            if now >= read_at:
                read_at = now + READ_FIGURES_S
                self._queue = read_figures(channel, self._queues)
            connection.process_data_events(time_limit=POLL_S)
        connection.process_data_events(time_limit=POLL_S)  # Sends what was settled last.

    def _adjust_consumers(self, channel: BlockingChannel, wanted: int) -> None:
        """Starts or cancels consumers. A cancelled one keeps its request, which takes a place until it is settled."""
        wanted -= sum(consumer not in self._consumers for consumer in self._held.values())
        while len(self._consumers) > max(0, wanted):
            channel.basic_cancel(self._consumers.pop())
        while len(self._consumers) < wanted:
            self._consumers.append(channel.basic_consume(self._queues.requests, self._on_delivery))

    def _on_delivery(
        self, channel: BlockingChannel, delivery: Basic.Deliver, properties: BasicProperties, payload: bytes
    ) -> None:
        try:
            claim = self._claim_of(channel, delivery, properties, payload)
        except Exception:
            # One message that meets a bug must not cut off each board that gets it.
            log.exception("a request of the pool cannot be read")
            if delivery.routing_key == self._queues.dead:
                channel.basic_ack(delivery.delivery_tag)
            else:
                channel.basic_reject(delivery.delivery_tag, requeue=False)  # It becomes a dead letter.
            return
        self._deliver(claim)

    def _claim_of(
        self, channel: BlockingChannel, delivery: Basic.Deliver, properties: BasicProperties, payload: bytes
    ) -> Claim:
        tag, key, dead_because = delivery.delivery_tag, delivery.routing_key, None
        now, waited_s = time.monotonic(), waited_s_of(properties)
        if key == self._queues.dead:
            dead_because, key = death_of(properties)
        claim = Claim(
            message=message_of(key, tag, properties, payload, received_at=now - (waited_s or 0.0)),
            deliveries=deliveries_of(delivery, properties),
            dead_because=dead_because,
            topics=self._topics,
            acknowledge=partial(self._acknowledge, channel, tag),
            requeue=partial(self._requeue, channel, tag),
        )
        if dead_because is None:
            self._held[tag] = delivery.consumer_tag
            self._claimed += 1
            self._repeated += claim.is_repeated
            self._taken_at.append(now)
            self._waited_s = waited_s
        return claim

    def _acknowledge(self, channel: BlockingChannel, tag: int) -> None:
        def acknowledge() -> None:
            self._held.pop(tag, None)
            channel.basic_ack(tag)

        _call(channel.connection, acknowledge)

    def _requeue(self, channel: BlockingChannel, tag: int) -> None:
        def requeue() -> None:
            self._held.pop(tag, None)
            # From RabbitMQ 4.3 on, `basic.nack` does not count as a delivery.
            channel.basic_reject(tag, requeue=True)

        self._given_back += 1
        _call(channel.connection, partial(channel.connection.call_later, GIVE_BACK_AFTER_S, requeue))


def _call(connection: BlockingConnection, function: Callable[[], object]) -> None:
    """Has the link's thread call it, unless the connection is lost, because another board then has the request."""
    with suppress(ConnectionWrongStateError):
        connection.add_callback_threadsafe(function)


def _raise_queue_gone(_: object) -> None:
    """Called when the broker has ended a consumer, as it does when the queue is deleted."""
    raise ConnectionError("the pool's queue is gone")
