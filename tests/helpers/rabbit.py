"""Stands in for RabbitMQ behind pika's BlockingConnection, with queues and the connections to them.

As with pika, callbacks run inside `process_data_events` on the connection's own thread, and other threads may call
`add_callback_threadsafe` alone. Each method has the parameters of pika's (tests/pool/test_link.py compares them).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker, ConnectionWrongStateError

from edge_agent.core.config import Config
from edge_agent.pool import amqp

QUEUE = "edgeai.v1.hall1.pool.pumps"
DEAD = f"{QUEUE}.dead"
KEY = f"{QUEUE}.infer.triage.request"
REFUSED = ConnectionRefusedError(111, "Connection refused")


@dataclass(eq=False)
class Waiting:
    """A message in a queue."""

    queue: str
    key: str
    payload: bytes
    properties: BasicProperties


@dataclass
class Consumer:
    """One that RabbitMQ's prefetch of 1 holds back while it has a message."""

    queue: str
    callback: Callable[..., object]
    unsettled: int | None = None


@dataclass(eq=False)
class FakeBroker:
    """A broker that raises `refusals` by host at an attempt to connect.

    `attempts` are the hosts in order, `accounts` the account of each attempt.
    """

    queues: dict[str, deque[Waiting]] = field(default_factory=lambda: {QUEUE: deque(), DEAD: deque()})
    refusals: dict[str, Exception] = field(default_factory=dict)
    attempts: list[str] = field(default_factory=list)
    accounts: list[tuple[str, str] | None] = field(default_factory=list)
    connections: list[FakeConnection] = field(default_factory=list)
    bindings: list[tuple[str, str, str]] = field(default_factory=list)
    # When each delivery was acknowledged and rejected, by its tag.
    acked: dict[int, float] = field(default_factory=dict)
    rejected: dict[int, float] = field(default_factory=dict)

    def connect(self, _config: Config, host: str, *, account: tuple[str, str] | None = None) -> FakeConnection:
        self.attempts.append(host)
        self.accounts.append(account)
        if host in self.refusals:
            raise self.refusals[host]
        self.connections.append(FakeConnection(self, host))
        return self.connections[-1]

    def publish(self, payload: bytes, *, key: str = KEY, queue: str = QUEUE, **properties: Any) -> None:
        headers = properties.pop("headers", {})
        self.queues[queue].append(Waiting(queue, key, payload, BasicProperties(headers=headers, **properties)))

    def consumers(self, queue: str = QUEUE) -> int:
        channels = (channel for one in self.connections for channel in one.channels)
        return sum(consumer.queue == queue for channel in channels for consumer in [*channel.consumers.values()])

    @property
    def connection(self) -> FakeConnection:
        return self.connections[-1]


class FakeConnection:
    """A connection that the network or the broker ends with `breaks_with`, at the next chance."""

    def __init__(self, broker: FakeBroker, host: str) -> None:
        self.broker, self.host = broker, host
        self.is_open = True
        self.breaks_with: Exception | None = None
        self.channels: list[FakeChannel] = []
        self._thread = threading.get_ident()
        self._from_other_threads = deque[Callable[[], object]]()
        self._timers: list[tuple[float, Callable[[], object]]] = []

    def break_off(self, error: Exception | None = None) -> None:
        """Loses the connection, for tests."""
        self.breaks_with = error or ConnectionClosedByBroker(320, "CONNECTION_FORCED - bye")

    def check(self) -> None:
        assert threading.get_ident() == self._thread, "pika is not thread-safe"
        if not self.is_open:
            raise ConnectionWrongStateError
        if self.breaks_with is not None:
            self._end()
            raise self.breaks_with

    def _end(self) -> None:
        """Ends the connection; the broker gives what was not settled to others."""
        self.is_open = False
        for channel in self.channels:
            channel.end()

    def close(self) -> None:
        self.check()
        self._end()

    def channel(self) -> FakeChannel:
        self.check()
        self.channels.append(FakeChannel(self))
        return self.channels[-1]

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        if not self.is_open:
            raise ConnectionWrongStateError
        self._from_other_threads.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.check()
        self._timers.append((time.monotonic() + delay, callback))

    def process_data_events(self, time_limit: float = 0) -> None:
        """Returns at the first event, or when the time is over."""
        ends_at, pause = time.monotonic() + time_limit, threading.Event()
        while True:
            self.check()
            now = time.monotonic()
            ready = [self._from_other_threads.popleft() for _ in range(len(self._from_other_threads))]
            ready += [callback for at, callback in self._timers if at <= now]
            self._timers = [(at, callback) for at, callback in self._timers if at > now]
            for channel in self.channels:
                ready += channel.ready()
            for event in ready:
                event()
            if ready or now >= ends_at:
                return
            pause.wait(0.002)


class FakeChannel:
    """One channel; `cancel_all` is what the broker does to it when the queue is deleted."""

    def __init__(self, connection: FakeConnection) -> None:
        self.consumers: dict[str, Consumer] = {}
        self.prefetch: int | None = None
        self._connection = connection
        self._tags = itertools.count(1)
        self._unsettled: dict[int, Waiting] = {}
        self._on_cancel: Callable[[object], object] | None = None
        self._cancels = deque[str]()
        self._closed_because: ChannelClosedByBroker | None = None

    @property
    def connection(self) -> FakeConnection:
        return self._connection

    def _check(self) -> None:
        self._connection.check()
        if self._closed_because is not None:
            raise self._closed_because

    def end(self) -> None:
        self.consumers.clear()
        for tag in [*self._unsettled]:
            self._requeue(tag)

    def cancel_all(self) -> None:
        """Ends all consumers, as if the queue was deleted, for tests."""
        self._cancels.extend(self.consumers)

    def ready(self) -> list[Callable[[], object]]:
        """What pika would call now, for deliveries, one to each consumer that has none, and for cancelled consumers."""
        events: list[Callable[[], object]] = []
        while self._cancels:
            del self.consumers[tag := self._cancels.popleft()]
            events.append(lambda tag=tag: self._on_cancel and self._on_cancel(tag))  # type: ignore[misc]
        for consumer in self.consumers.values():
            waiting = self._connection.broker.queues[consumer.queue]
            if waiting and consumer.unsettled is None:
                events.append(self._delivery(consumer, waiting.popleft()))
        return events

    def _delivery(self, consumer: Consumer, message: Waiting) -> Callable[[], object]:
        consumer.unsettled = tag = next(self._tags)
        self._unsettled[tag] = message
        redelivered = bool((message.properties.headers or {}).get("x-delivery-count"))
        consumer_tag = next(name for name, one in self.consumers.items() if one is consumer)
        method = SimpleNamespace(
            delivery_tag=tag, routing_key=message.key, redelivered=redelivered, consumer_tag=consumer_tag
        )
        return lambda: consumer.callback(self, method, message.properties, message.payload)

    def basic_qos(self, *, prefetch_count: int) -> None:
        self._check()
        self.prefetch = prefetch_count

    def add_on_cancel_callback(self, callback: Callable[[object], object]) -> None:
        self._on_cancel = callback

    def basic_consume(self, queue: str, on_message_callback: Callable[..., object]) -> str:
        self._check()
        assert self.prefetch == 1
        tag = f"consumer{next(self._tags)}"
        self.consumers[tag] = Consumer(queue, on_message_callback)
        return tag

    def basic_cancel(self, consumer_tag: str) -> None:
        """The consumer's message stays unsettled."""
        self._check()
        del self.consumers[consumer_tag]

    def basic_ack(self, delivery_tag: int) -> None:
        self._check()
        self._settle(delivery_tag)
        self._connection.broker.acked[delivery_tag] = time.monotonic()

    def basic_reject(self, delivery_tag: int, requeue: bool) -> None:  # noqa: FBT001 - as pika has it
        self._check()
        if requeue:
            self._requeue(delivery_tag)
        else:
            letter = self._settle(delivery_tag)
            self._connection.broker.queues[DEAD].append(replace(letter, queue=DEAD, key=DEAD))
        self._connection.broker.rejected[delivery_tag] = time.monotonic()

    def _settle(self, tag: int) -> Waiting:
        for consumer in self.consumers.values():
            if consumer.unsettled == tag:
                consumer.unsettled = None
        return self._unsettled.pop(tag)

    def _requeue(self, tag: int) -> None:
        message = self._settle(tag)
        headers = message.properties.headers
        headers["x-delivery-count"] = headers.get("x-delivery-count", 0) + 1
        self._connection.broker.queues[message.queue].appendleft(message)

    def queue_declare(
        self, queue: str, *, passive: bool = False, durable: bool = False, arguments: dict[str, Any] | None = None
    ) -> Any:
        self._check()
        queues = self._connection.broker.queues
        if passive and queue not in queues:
            self._closed_because = ChannelClosedByBroker(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'")
            raise self._closed_because
        if not passive:
            assert durable
            assert arguments
            queues.setdefault(queue, deque())
        consumers = self._connection.broker.consumers(queue)
        return SimpleNamespace(method=SimpleNamespace(message_count=len(queues[queue]), consumer_count=consumers))

    def queue_bind(self, queue: str, exchange: str, routing_key: str) -> None:
        self._check()
        self._connection.broker.bindings.append((queue, exchange, routing_key))


def fake_broker(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> FakeBroker:
    """What every connection to a pool goes to from now on."""
    broker = FakeBroker(**fields)
    monkeypatch.setattr(amqp, "connect", broker.connect)
    return broker
