"""What goes to the broker, until it has it: handed to paho, set aside, sent again, refused; under numbers of its own.

Threads: paho's calls what begins with `connection_` and `confirmed`, the agent's the rest.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Protocol

from edge_agent.core.errors import cut
from edge_agent.core.publications import Publication
from edge_agent.mqtt.first_in_line import MAX_IN_FLIGHT
from edge_agent.mqtt.poison import Poison

log = logging.getLogger(__name__)

# Messages that wait for a PUBACK or for a connection; past this, they are dropped and counted. Larger than any queue.
MAX_QUEUED = 20_000


class Queue(Protocol):
    """As PahoQueue."""

    @property
    def waiting(self) -> MutableMapping[int, Any]: ...
    @property
    def lock(self) -> AbstractContextManager[Any, Any]: ...
    def hand_over(self, message: Any) -> int | None: ...
    def packet_bytes(self, message: Any) -> int: ...


class Fate(StrEnum):
    """What became of a message that was handed over: a broker of MQTT 5 may take it to throw it away."""

    CONFIRMED = "confirmed"  # the broker has it
    FORBIDDEN = "forbidden"  # nobody, or not we, may publish to that topic
    UNTAKEN = "untaken"  # it is not what the broker takes there
    POSTPONED = "postponed"  # not now: a quota, or a fault of the broker's


class Outbox:
    """queue: paho's own. clock: the monotonic one; draw: a number from 0 to 1."""

    def __init__(
        self, queue: Queue, clock: Callable[[], float] = time.monotonic, draw: Callable[[], float] = random.random
    ) -> None:
        self.published = self.dropped = 0
        self._queue = queue
        self._clock = clock
        self._poison = Poison(draw)
        self._max_packet_bytes: int | None = None
        self._max_in_flight = MAX_IN_FLIGHT
        # paho gives a number again that it thinks free, and another one to what is sent again.
        self._next = itertools.count(1)
        self._numbers: dict[int, int] = {}
        # Not through the inbox, which may be full.
        self._fates: deque[tuple[int, Fate]] = deque(maxlen=2 * MAX_QUEUED)
        # Of messages that the broker took to throw away: when, in seconds of the clock, and why.
        self.refusals: deque[tuple[float, str]] = deque(maxlen=16)

    def __len__(self) -> int:
        """Messages that the broker has not confirmed."""
        return len(self._queue.waiting) + len(self._poison)

    def takes(self, publication: Publication) -> bool:
        """Whether it is not larger than the broker allows, nor like those that it has closed connections on."""
        if self._max_packet_bytes is not None and self._queue.packet_bytes(publication) > self._max_packet_bytes:
            return False
        return self._poison.takes(publication, self._clock())

    def publish(self, publication: Publication) -> int | None:
        """Gives its number; None: dropped."""
        if not self.takes(publication):
            log.error(
                "message dropped topic=%r bytes=%d: the broker takes none of this size there",
                cut(publication.topic), len(publication.payload),
            )  # fmt: skip
        elif publication.qos and len(self) >= MAX_QUEUED:
            log.error(
                "message dropped topic=%r: %d messages wait for the broker already", cut(publication.topic), MAX_QUEUED
            )
        elif publication.qos or not self._poison.doubts(publication.topic):
            with self._queue.lock:
                number = next(self._next)
                is_held = publication.qos > 0 and self._poison.holds(number, publication)
                if is_held or self._send(number, publication) is not None:
                    self.published += 1
                    return number
        self.dropped += 1
        return None

    def _send(self, number: int, message: Any) -> int | None:
        key = self._queue.hand_over(message)
        if key is not None and message.qos:
            self._numbers[key] = number
        return key

    @property
    def in_flight(self) -> int:
        """How many are to be sent at once, and to wait for their PUBACK."""
        return 1 if self._poison.is_in_doubt(self._queue.waiting) else self._max_in_flight

    def take_fates(self) -> list[tuple[int, Fate]]:
        """Numbers of messages that were handed over, and what became of them: to be called often."""
        with self._queue.lock:
            self._poison.send_again(self._send, self._queue.waiting, self.in_flight // 2 + 1, self._clock())
        return [self._fates.popleft() for _ in range(len(self._fates))]

    def send_last(self) -> None:
        """At the end, what is set aside, one by one: there will be no other time for it."""
        with self._queue.lock:
            last = None if self._queue.waiting else self._poison.last()
            if last is not None:
                self._send(*last)

    def answered(self) -> None:
        self._poison.answered()

    def number(self, key: int) -> int | None:
        """Of what waits under this number of paho's."""
        return self._numbers.get(key)

    def confirmed(self, key: int) -> None:
        """key: paho's number, also below."""
        self._passed(key, Fate.CONFIRMED)

    def refused(self, key: int, fate: Fate, words: str) -> None:
        """By the broker, with these words."""
        self.refusals.append((self._clock(), words))
        message = self._queue.waiting.get(key)
        log.error("the broker refuses a message topic=%r: %s", cut(message.topic) if message else "?", words)
        self._passed(key, fate)

    def _passed(self, key: int, fate: Fate) -> None:
        with self._queue.lock:
            number = self._numbers.pop(key, None)
            if number is not None:  # at QoS 0 nobody waits for it
                self._poison.passed(key, self._clock())
                self._fates.append((number, fate))

    def connection_made(self, max_packet_bytes: int | None, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        """Before anything is sent. max_packet_bytes: as the broker tells it, which may be less than before."""
        self._max_packet_bytes = max_packet_bytes
        self._max_in_flight = max_in_flight
        with self._queue.lock:
            self._poison.connected(self._queue.waiting, self._clock())
            found = [] if max_packet_bytes is None else self._take_out_longer_than(max_packet_bytes)
        for number, topic in found:
            self._drop(number, topic, f"the broker takes no packet of more than {max_packet_bytes} bytes")

    def _take_out_longer_than(self, most: int) -> list[tuple[int, str]]:
        keys = [key for key, one in self._queue.waiting.items() if self._queue.packet_bytes(one) > most]
        waiting = [(self._numbers.pop(key), self._queue.waiting.pop(key).topic) for key in keys]
        return waiting + self._poison.take_out(lambda one: self._queue.packet_bytes(one) > most)

    def connection_broken(self) -> None:
        with self._queue.lock:
            self._poison.broken(self._queue.waiting, self._clock())

    def connection_is_tried(self) -> None:
        """Between two connections: paho may have been sending what waits when the last one broke."""
        with self._queue.lock:
            dropped = self._poison.sort_out(self._queue.waiting, self._numbers, self._clock())
        for number, topic in dropped:
            self._drop(number, topic, "the broker closes the connection on it")

    def _drop(self, number: int, topic: str, why: str) -> None:
        self._fates.append((number, Fate.UNTAKEN))
        self.dropped += 1
        log.error("message dropped topic=%r: %s", cut(topic), why)
