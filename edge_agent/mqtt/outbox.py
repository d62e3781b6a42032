"""What goes to the broker, until the broker confirms it, refuses it, or closes connections on it.

Threads: paho's network thread calls `connection_…`, `confirmed` and `refused`; the agent's thread calls the rest.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol

from edge_agent.core.errors import cut
from edge_agent.core.publications import Publication

log = logging.getLogger(__name__)

# Messages that wait for a connection or a PUBACK. More are dropped and counted. Larger than any request queue.
MAX_QUEUED = 20_000
MAX_IN_FLIGHT = 20
# An MQTT 3.1.1 broker closes the connection on a message that it does not take, and gets the same message again.
# After MAX_BREAKS connections in a row that break within BREAKS_WITHIN_S after it was sent, a message is given up.
MAX_BREAKS, BREAKS_WITHIN_S = 5, 2.0
# After this number of breaks, messages are sent one by one, so that the first one must be the cause of the next.
ONE_BY_ONE_AFTER = 2
# A topic with a message that was given up takes no other one of that size, and no retained message, for this time.
TOPIC_REST_S = 600.0
# An answer that is sent again, as a repetition, is a little shorter.
REPEAT_BYTES = 16


class Queue(Protocol):
    """See PahoQueue."""

    @property
    def waiting(self) -> MutableMapping[int, Any]: ...
    @property
    def lock(self) -> AbstractContextManager[Any, Any]: ...
    def hand_over(self, publication: Publication) -> int | None: ...
    def packet_bytes(self, message: Any) -> int: ...


class PublishResult(StrEnum):
    """How a message ended."""

    CONFIRMED = "confirmed"  # the broker has it
    FORBIDDEN = "forbidden"  # this client may not publish to that topic
    REJECTED = "rejected"  # too large, not valid there, or connections break on it
    POSTPONED = "postponed"  # not now: a quota, or a fault of the broker


class Outbox:
    """Messages have paho's packet numbers. max_packet_bytes: as configured; the broker may allow less."""

    def __init__(
        self, queue: Queue, max_packet_bytes: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.published = self.dropped = 0
        # Messages that the broker refused or broke connections on: when (seconds of the clock), and its words.
        self.refusals: deque[tuple[float, str]] = deque(maxlen=16)
        self._queue = queue
        self._clock = clock
        self._configured_max_bytes = self._max_bytes = max_packet_bytes
        self._max_in_flight = MAX_IN_FLIGHT
        # Not through the agent's inbox, which may be full.
        self._results: deque[tuple[int, PublishResult]] = deque(maxlen=2 * MAX_QUEUED)
        # The message that waited first as the last connections broke, and how many broke on it.
        self._suspect: int | None = None
        self._breaks = 0
        # When the message that waits first was sent on this connection.
        self._first_sent_at = 0.0
        # By topic: from which size on messages are rejected, and until when.
        self._resting: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        """Messages that the broker has not confirmed."""
        return len(self._queue.waiting)

    def can_send(self, message: Any) -> bool:
        """Whether the broker takes a message of this size to this topic, as far as is known."""
        if self._max_bytes is None and message.topic not in self._resting:
            return True
        size = self._queue.packet_bytes(message)
        rejected_from, until = self._resting.get(message.topic, (0, 0.0))
        is_resting = size >= rejected_from and self._clock() < until
        return not is_resting and (self._max_bytes is None or size <= self._max_bytes)

    def publish(self, publication: Publication) -> int | None:
        """Gives the packet number, for `take_results`. None = dropped."""
        if not self.can_send(publication):
            self._log_drop(publication, "the broker takes none of this size there")
        elif publication.qos and len(self) >= MAX_QUEUED:
            self._log_drop(publication, f"{MAX_QUEUED} messages already wait for the broker")
        else:
            with self._queue.lock:
                if not self._queue.waiting:
                    self._first_sent_at = self._clock()
                number = self._queue.hand_over(publication)
            if number is not None:
                self.published += 1
                return number
        self.dropped += 1
        return None

    @property
    def in_flight(self) -> int:
        """How many messages to send without a PUBACK."""
        return 1 if self._breaks >= ONE_BY_ONE_AFTER else self._max_in_flight

    def take_results(self) -> list[tuple[int, PublishResult]]:
        """Packet numbers and results since the last call. To be called often."""
        return [self._results.popleft() for _ in range(len(self._results))]

    def confirmed(self, number: int) -> None:
        self._end(number, PublishResult.CONFIRMED)

    def refused(self, number: int, result: PublishResult, words: str) -> None:
        """words: the broker's reason."""
        message = self._queue.waiting.get(number)
        log.error("the broker refuses a message topic=%r: %s", cut(message.topic) if message else "?", words)
        self.refusals.append((self._clock(), words))
        self._end(number, result)

    def _end(self, number: int, result: PublishResult) -> None:
        if number in self._queue.waiting:  # paho also reports messages at QoS 0
            self._suspect, self._breaks = None, 0
            self._first_sent_at = self._clock()
            self._results.append((number, result))

    def connection_made(self, max_packet_bytes: int | None, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        """Before anything is sent. max_packet_bytes: the broker's, None = it named none."""
        limits = [limit for limit in (self._configured_max_bytes, max_packet_bytes) if limit is not None]
        self._max_bytes = min(limits, default=None)
        self._max_in_flight = max_in_flight
        self._first_sent_at = self._clock()
        with self._queue.lock:
            self._reject_unsendable(f"the broker takes no packet of more than {self._max_bytes} bytes")

    def connection_lost(self) -> None:
        with self._queue.lock:
            first = next(iter(self._queue.waiting), None)
        is_soon = self._clock() - self._first_sent_at <= BREAKS_WITHIN_S
        if first is None or not is_soon or first != self._suspect:
            self._breaks = 0
        if first is not None and is_soon:
            self._suspect = first
            self._breaks += 1

    def connection_tried(self) -> None:
        """Before the next attempt. Not as soon as a connection is lost: paho may be in the middle of its queue then."""
        with self._queue.lock:
            self._keep_latest_of_each_retained_topic()
            suspect = self._suspect
            if self._breaks < MAX_BREAKS or suspect is None or suspect not in self._queue.waiting:
                return
            now, message = self._clock(), self._queue.waiting[suspect]
            rejected_from = 0 if message.retain else self._queue.packet_bytes(message) - REPEAT_BYTES
            self._resting = {topic: rest for topic, rest in self._resting.items() if rest[1] > now}
            self._resting[message.topic] = (rejected_from, now + TOPIC_REST_S)
            self._reject_unsendable(f"{self._breaks} connections broke as one of this size was sent there")
            self.refusals.append((now, "the broker closes the connection"))
            self._suspect, self._breaks = None, 0

    def _keep_latest_of_each_retained_topic(self) -> None:
        """It moves to the place of the first one, so that the breaks of one topic are counted together."""
        places: dict[str, Any] = {}
        for number, message in list(self._queue.waiting.items()):
            if message.retain and (first := places.setdefault(message.topic, message)) is not message:
                first.payload, first.properties = message.payload, message.properties
                del self._queue.waiting[number]

    def _reject_unsendable(self, why: str) -> None:
        for number, message in list(self._queue.waiting.items()):
            if not self.can_send(message):
                del self._queue.waiting[number]
                self._results.append((number, PublishResult.REJECTED))
                self.dropped += 1
                self._log_drop(message, why)

    def _log_drop(self, message: Any, why: str) -> None:
        log.error("message dropped topic=%r bytes=%d: %s", cut(message.topic), len(message.payload), why)
