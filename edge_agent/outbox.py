"""What goes to the broker, until it has it: handed to paho, set aside, sent again, refused.

Threads: paho's calls what begins with `connection_` and `confirmed`, the agent's the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from edge_agent.faults import cut
from edge_agent.poison import Poison, Waiting
from edge_agent.publications import Publication

log = logging.getLogger(__name__)

# Messages that wait for a PUBACK or for a connection; past this, they are dropped and counted. Larger than any queue.
MAX_QUEUED = 20_000
# Of a packet, besides topic, payload and the variable properties.
PACKET_OVERHEAD_BYTES = 64


class Refusal(StrEnum):
    """Why a broker of MQTT 5 took a message to throw it away."""

    FORBIDDEN = "forbidden"  # nobody, or not we, may publish to that topic
    UNTAKEN = "untaken"  # it is not what the broker takes there
    LATER = "later"  # not now: a quota, or a fault of the broker's


class Outbox:
    """hand_over: gives a message, a new one or one that has waited already, to paho; its number there, None = it is
    dropped, and that is logged. waiting: paho's own queue."""

    def __init__(self, hand_over: Callable[[Any], int | None], waiting: Waiting) -> None:
        self.published = self.dropped = 0
        self._hand_over = hand_over
        self._waiting = waiting
        self._lock = threading.Lock()
        self._connected_at: float | None = None
        self._max_packet_bytes: int | None = None
        self._poison = Poison()
        # Not through the inbox: paho calls with a lock held that `publish` needs, and the inbox may be full.
        self._confirmed: deque[int] = deque(maxlen=2 * MAX_QUEUED)
        # Numbers of messages that the broker turned out not to take.
        self._refused: deque[int] = deque()
        # And of those that it took to throw away: it lets us publish nothing to their topics, or not now.
        self._forbidden: deque[int] = deque()
        self._postponed: deque[int] = deque()
        self.refused_at: deque[float] = deque(maxlen=16)  # seconds of the monotonic clock
        # What was sent again has another number: by which its sender knows it.
        self._known_as: dict[int, int] = {}

    def __len__(self) -> int:
        """Messages that the broker has not confirmed."""
        return len(self._waiting) + len(self._poison)

    def takes(self, publication: Publication) -> bool:
        """Whether it is not larger than the broker allows, nor like one that it has closed connections on."""
        nbytes = _packet_bytes(publication)
        if self._max_packet_bytes is not None and nbytes > self._max_packet_bytes:
            return False
        return self._poison.takes(publication.topic, nbytes, time.monotonic())

    def publish(self, publication: Publication) -> int | None:
        """Gives its number; None: dropped."""
        if not self.takes(publication):
            log.error(
                "message dropped topic=%r bytes=%d: the broker takes none of this size there",
                cut(publication.topic), len(publication.payload),
            )  # fmt: skip
            self.dropped += 1
            return None
        if len(self._poison) and publication.qos and len(self) < MAX_QUEUED:
            with self._lock:
                number = self._poison.holds(publication)
            if number is not None:
                return number
        number = self._hand_over(publication)
        self.dropped += number is None
        self.published += number is not None
        return number

    def take_confirmed(self) -> list[int]:
        """Numbers of messages that the broker has, or never will, since the last call."""
        if len(self._poison):
            self._send_again(time.monotonic())
        return self._as_known(self._confirmed)

    def take_refused(self) -> list[int]:
        """Numbers of messages that were handed over, and that the broker does not take, since the last call."""
        return self._as_known(self._refused)

    def take_forbidden(self) -> list[int]:
        """Numbers of messages to topics that are refused us, since the last call."""
        return self._as_known(self._forbidden)

    def take_postponed(self) -> list[int]:
        """Numbers of messages that the broker may take another time, since the last call."""
        return self._as_known(self._postponed)

    def _as_known(self, numbers: deque[int]) -> list[int]:
        # Only here, in the thread that sends again: a PUBACK may come before the new number is noted.
        found = [numbers.popleft() for _ in range(len(numbers))]
        return [self._known_as.pop(number, number) for number in found]

    def let_go(self) -> None:
        """Sends what is set aside: there will be no other time for it."""
        with self._lock:
            aside = self._poison.let_go()
        for number, message in aside:
            self._publish_again(number, message)

    def confirmed(self, number: int) -> None:
        self._confirmed.append(number)

    def refused(self, number: int, refusal: Refusal, words: str) -> None:
        """By the broker, with these words."""
        self.refused_at.append(time.monotonic())
        message = self._waiting.get(number)
        log.error("the broker refuses a message topic=%r: %s", cut(message.topic) if message else "?", words)
        match refusal:
            case Refusal.FORBIDDEN:
                self._forbidden.append(number)
            case Refusal.UNTAKEN:
                self._refused.append(number)
            case Refusal.LATER:
                self._postponed.append(number)

    def connection_made(self, max_packet_bytes: int | None) -> None:
        """Before anything is sent. max_packet_bytes: as the broker tells it."""
        self._max_packet_bytes = max_packet_bytes
        if max_packet_bytes is not None:
            self._take_out_longer_than(max_packet_bytes)
        self._connected_at = time.monotonic()

    def connection_broken(self) -> None:
        now = time.monotonic()
        if self._connected_at is not None:
            self._poison.broken(self._waiting, now - self._connected_at, now)
        self._connected_at = None

    def connection_is_tried(self) -> None:
        """Between two connections: paho may have been sending what waits when the last one broke."""
        with self._lock:
            dropped = self._poison.sort_out(self._waiting, time.monotonic())
        for number, topic in dropped:
            self._refuse(number, topic, "the broker closes the connection on it")

    def _take_out_longer_than(self, most: int) -> None:
        """Of what waits for a broker that takes less than the one it was handed over to: paho is about to send it."""
        with self._lock:
            found = self._poison.take_out(self._waiting, lambda one: _waiting_bytes(one) > most)
        for number, topic in found:
            self._refuse(number, topic, f"the broker takes no packet of more than {most} bytes")

    def _refuse(self, number: int, topic: str, why: str) -> None:
        self._refused.append(number)
        self.dropped += 1
        log.error("message dropped topic=%r: %s", cut(topic), why)

    def _send_again(self, now: float) -> None:
        """What was set aside, on a connection that has lasted without it."""
        connected_at = self._connected_at
        if connected_at is None:
            return
        with self._lock:
            again = self._poison.lasted(self._waiting, now - connected_at, now)
        if again is not None:
            self._publish_again(*again)

    def _publish_again(self, number: int, message: Any) -> None:
        again = self._hand_over(message)
        if again is not None:
            self._known_as[again] = self._known_as.pop(number, number)


def _waiting_bytes(message: Any) -> int:
    """Of the packet that paho will make of it: besides these, two numbers, the topic's length and a header."""
    if isinstance(message, Publication):
        return _packet_bytes(message)
    properties = b"" if message.properties is None else message.properties.pack()
    return len(message.topic.encode("utf-8", "surrogatepass")) + len(message.payload) + len(properties) + 9


def _packet_bytes(publication: Publication) -> int:
    variable = (publication.topic, publication.content_type or "", publication.response_topic or "")
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in variable)
    return size + len(publication.payload) + len(publication.correlation or b"") + PACKET_OVERHEAD_BYTES
