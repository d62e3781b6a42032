"""START HERE: one connection for the values of all tables, and what the agent's thread does with them.

    message -> Feed -> SignalTable -> Source: which machine, which values -> Machine -> Track -> Window
                                   <- Reading, where one is due, which the agent admits like any other message

The network thread puts messages into a bounded buffer, so they cost the inbox no event. The agent's thread takes them
in `tick`, in turns of limited length, so that a flood of values does not hold up requests.

The connection is at QoS 0 with a clean session: after an outage, a window must show a gap instead of what the broker
queued meanwhile.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from edge_agent.core.clock import timestamp
from edge_agent.core.config import Config
from edge_agent.core.messages import JSON, Message, Publication
from edge_agent.core.strict_json import encode
from edge_agent.core.topics import signals_topic
from edge_agent.core.wording import shown
from edge_agent.mqtt.link import Connected, ConnectionFailed, FailedAt, LinkEvent, MqttLink, Received
from edge_agent.signals import state_file
from edge_agent.signals.machine import Reading
from edge_agent.signals.recorder import Recorder
from edge_agent.signals.signal_table import SignalTable, new_table, receive
from edge_agent.signals.sparkplug_source import RebirthLimiter
from edge_agent.signals.values import MAX_PAYLOAD_BYTES
from edge_agent.status.alarms import Finding

log = logging.getLogger(__name__)

# Beyond these, the oldest messages are dropped, because the newest values matter most.
MAX_WAITING, MAX_WAITING_BYTES = 5000, 16_000_000
# Once no message has been dropped for this long, the retained values are asked for again. The time doubles each time.
CALM_S, MAX_CALM_S = 5.0, 600.0
SAVE_S = 900.0
# A process that has forgotten a machine would not say that its last answer no longer holds.
SAVE_NEW_MACHINE_S = 60.0
# The bytes of the machines in a message with the latest values, which has 64 kB with the fields around them.
_MAX_LATEST_BYTES = 65_000
# How long signals may hold the agent's thread at a time. Afterwards they leave it alone for three times as long.
MAX_TURN_S = 0.05
# Turns begin this far apart, which a deadline counts, because it begins when the value arrives.
TURN_INTERVAL_S = 0.05


class Buffer:
    """Messages in the order of their arrival, with its times. None stands for a lost connection."""

    def __init__(self) -> None:
        # The monotonic clock, which never goes back, moved to wall time so that a window can outlive the process.
        self.offset = time.time() - time.monotonic()
        self.dropped = 0
        self._entries: deque[tuple[float, Message | None]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def now(self) -> float:
        return time.monotonic() + self.offset

    def put(self, message: Message | None) -> None:
        message = _shortened(message)
        with self._lock:
            # The time is taken under the lock, so that entries are in the order of their times.
            self._entries.append((self.now(), message))
            self._bytes += _size(message)
            lost_at = None
            while len(self._entries) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
                at, dropped = self._entries.popleft()
                self._bytes -= _size(dropped)
                self.dropped += dropped is not None
                lost_at = at if dropped is None else lost_at
            if lost_at is not None:  # A lost connection must not be overlooked, because no value is known after it.
                self._entries.appendleft((lost_at, None))

    def take(self, seconds: float) -> Iterator[tuple[float, Message | None]]:
        """Takes what has arrived, the oldest first, for this many seconds at most; the rest stays."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            with self._lock:
                if not self._entries:
                    return
                at, message = self._entries.popleft()
                self._bytes -= _size(message)
            yield at, message

    def taken_until(self) -> float:
        """The time up to which everything has been taken."""
        with self._lock:
            return self._entries[0][0] if self._entries else self.now()


class Feed:
    """Connects the tables of `[signals]` to the broker and to the agent. It is a `Part` of the status."""

    def __init__(self, config: Config, follows: MqttLink) -> None:
        """Where several brokers are configured, the feed uses the one that the link `follows` is connected to."""
        prefix = f"{config.device.site}.{config.device.id}"
        self.link = MqttLink(
            f"{prefix}.signals", config.mqtt, self._on_link_event, wants_retained=True, follows=follows, qos=0
        )
        limiter = RebirthLimiter()
        self.tables = {name: new_table(name, table, limiter) for name, table in config.signals.items()}
        self._buffer = Buffer()
        self._state_path = config.state_dir / state_file.FILE
        self._recorders = {
            name: Recorder(config.state_dir, name, table.record_mb)
            for name, table in config.signals.items()
            if table.record_every_s
        }
        self._unread = set(self.tables)  # The tables that have made no reading yet.
        self._logged = dict.fromkeys(self.tables, 0)  # How many offenders of each table are in the log.
        self._full = set[str]()  # The tables that are known to have refused a machine.
        self._is_stopping = False
        self._resumes_at = 0.0
        self._save_at = time.monotonic() + SAVE_S
        self._topics, self._interval_s = config.topics, config.health.interval_s
        self._publish_at = 0.0
        # Whether a value holds until the next one, which may be among dropped messages.
        self._has_held_values = any(
            table.source == "topics" and math.isinf(table.max_age_of(value))
            for table in config.signals.values()
            for value in table.values
        )
        self._dropped = 0  # Those already taken into account.
        self._reconnects_at = math.inf  # Because of dropped messages.
        self._dropped_at = -math.inf
        self._calm_s = CALM_S

    def start(self) -> None:
        state_file.load(self._state_path, self.tables, self._buffer.now())
        filters = {text for table in self.tables.values() for text in table.source.filters}
        self.link.subscriptions.replace(filters)
        self.link.start()

    def stop(self, timeout_s: float) -> None:
        self._is_stopping = True
        self.link.stop(timeout_s)
        self._buffer.put(None)
        for _ in self._readings(self._buffer.take(timeout_s)):
            pass  # It is too late to ask, but the saved windows should have what has arrived.
        self._save(self._buffer.taken_until())

    @property
    def network_threads_alive(self) -> dict[str, bool]:
        """Whether the network thread runs, by client ID."""
        return {self.link.client_id: self.link.is_network_thread_alive}

    def next_turn_at(self, now: float) -> float:
        """When to call `tick` again. Messages wake no one, so that a flood of them cannot hold up requests."""
        return max(now + TURN_INTERVAL_S, self._resumes_at)

    def tick(self, now: float) -> Iterator[Message]:
        """The readings that are due, as messages for `Admission.receive`."""
        started_at = time.monotonic()
        if started_at < self._resumes_at:
            return
        yield from self._messages(self._readings(self._buffer.take(MAX_TURN_S)))
        until = self._buffer.taken_until()
        for name, table in self.tables.items():
            yield from self._messages(table.advance(until))
            self._log_offenders(table)
            if table.refused and name not in self._full:
                self._full.add(name)
                why = "more than max_machines, or too long a name"
                log.warning("machine refused table=%s machine=%s: %s", name, shown(min(table.refused)), why)
            if table.readings and name in self._unread:
                self._unread.discard(name)
                log.info("first reading table=%s", name)
            for publication in table.source.take_requests(until):
                self.link.publish(publication)
            if table.recordings:
                # The clock may have been set since the start.
                shift_s = time.time() - self._buffer.now()
                rows = [replace(reading, at=reading.at + shift_s) for reading in table.recordings]
                self._recorders[name].add(rows)
                table.recordings.clear()
            if table.has_new_machine:
                table.has_new_machine = False
                self._save_at = min(self._save_at, now + SAVE_NEW_MACHINE_S)
        self._notice_dropped(now)
        if now >= self._save_at:
            self._save(until)
            self._save_at = now + SAVE_S
        if now >= self._publish_at and self.link.is_connected:
            self._publish_latest(until)
            self._publish_at = now + self._interval_s
        ended_at = time.monotonic()
        self._resumes_at = ended_at + 3 * (ended_at - started_at)

    def as_health(self, now: float) -> dict[str, Any]:  # noqa: ARG002 - a Part's
        dropped = {"dropped_total": self._buffer.dropped}
        return {"signals": {name: table.as_health() | dropped for name, table in self.tables.items()}}

    def reasons(self) -> Mapping[str, bool]:
        lacks = any(table.lacking() for table in self.tables.values())
        may_be_wrong = self._reconnects_at < math.inf
        is_stale = lacks or may_be_wrong or not self.link.is_connected or bool(self.link.subscriptions.refused)
        return {"signals-stale": is_stale}

    def findings(self, now: float) -> Mapping[str, Finding | None]:  # noqa: ARG002 - a Part's
        return {}

    def _on_link_event(self, event: LinkEvent) -> None:
        """Runs on the network's thread."""
        match event:
            case Received(message=message):
                self._buffer.put(message)
            case Connected():
                log.info("connected client=%s", self.link.client_id)
            case ConnectionFailed(failed_at=FailedAt.LOST, reason=reason):
                self._buffer.put(None)
                level = logging.INFO if self._is_stopping else logging.WARNING
                log.log(level, "disconnected client=%s reason=%s", self.link.client_id, reason)

    def _readings(self, entries: Iterable[tuple[float, Message | None]]) -> Iterator[Reading]:
        for at, message in entries:
            tables = self.tables.values()
            if message is not None:
                yield from receive(tables, message.topic, message.payload, is_retained=message.is_retained, now=at)
                continue
            for table in tables:
                yield from table.advance(at)
                table.on_connection_lost(at)

    def _notice_dropped(self, now: float) -> None:
        """After dropped messages, has a new connection end all values and bring the retained ones again."""
        if self._buffer.dropped > self._dropped:
            if now - self._dropped_at > MAX_CALM_S:
                self._calm_s = CALM_S
            self._dropped, self._dropped_at = self._buffer.dropped, now
            if self._has_held_values:
                if self._reconnects_at == math.inf:
                    log.warning(
                        "messages dropped total=%d, so held values may be wrong until it reconnects", self._dropped
                    )
                self._reconnects_at = now + self._calm_s
        elif now >= self._reconnects_at:
            # What the new connection brings may be too much, too.
            self._reconnects_at, self._calm_s = math.inf, min(2 * self._calm_s, MAX_CALM_S)
            log.info("reconnecting, because messages were dropped")
            self.link.reconnect()

    def _log_offenders(self, table: SignalTable) -> None:
        """Logs what was not taken first of each value, for each reason; `not_taken` counts all of it."""
        logged = self._logged[table.name]
        for (value, reason), (machine, content) in itertools.islice(table.source.offenders.items(), logged, None):
            where = f"table={table.name} machine={shown(machine)} value={value}"
            log.info("not taken %s reason=%s content=%s", where, reason, shown(content))
        self._logged[table.name] = len(table.source.offenders)

    def _messages(self, readings: Iterable[Reading]) -> Iterator[Message]:
        for reading in readings:
            # While no value can come, repeated refusals would only pile up.
            if self.link.is_connected or not reading.is_repeated:
                yield self._message(reading)

    def _message(self, reading: Reading) -> Message:
        fault = "; ".join(reading.lacking) or None
        return Message(
            topic=signals_topic(reading.table, reading.machine),
            payload=encode(reading.input),
            qos=0,
            packet_id=0,
            content_type=JSON,
            received_at=reading.at - self._buffer.offset,
            machine=reading.machine,
            fault=fault,
            is_fault_repeated=reading.is_repeated,
        )

    def _publish_latest(self, until: float) -> None:
        for name, table in self.tables.items():
            document = {"ts": timestamp(), **table.latest(until, _MAX_LATEST_BYTES)}
            topic = self._topics.signals(name)
            self.link.publish(Publication(topic=topic, payload=encode(document), qos=0, content_type=JSON))

    def _save(self, now: float) -> None:
        try:
            state_file.save(self._state_path, self.tables, now)
        except OSError as error:
            log.warning("%s cannot be written, so windows would be empty after a restart: %s", self._state_path, error)


def _shortened(message: Message | None) -> Message | None:
    """Cuts a payload that will be refused as too long, so that it pushes no others out of the buffer."""
    if message is None or len(message.payload) <= MAX_PAYLOAD_BYTES:
        return message
    return replace(message, payload=message.payload[: MAX_PAYLOAD_BYTES + 1])


def _size(message: Message | None) -> int:
    return 0 if message is None else len(message.payload) + len(message.topic)
