"""What goes to the broker, until the broker confirms it, refuses it, or closes connections on it.

The messages wait in paho's own queue, to which paho offers no public access. Threads: paho's network thread calls
the `on_…` methods; the agent's thread calls the rest.
"""
# ruff: noqa: SLF001

import logging
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from enum import StrEnum

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.core.messages import Publication
from edge_agent.core.wording import cut

log = logging.getLogger(__name__)

# Messages that wait for a connection or a PUBACK. More are dropped and counted. Larger than any request queue.
MAX_QUEUED = 20_000
MAX_IN_FLIGHT = 20
# A broker that drops packets when it is overloaded may also drop PUBACKs, which it does not send again.
CONFIRMED_WITHIN_S = 30.0
# An MQTT 3.1.1 broker closes the connection on a message that it does not take, and gets the same message again.
# After MAX_BREAKS connections in a row that break within BREAKS_WITHIN_S after it was sent, a message is given up.
MAX_BREAKS, BREAKS_WITHIN_S = 5, 2.0
# After this number of breaks, messages are sent one by one, so that the first one must be the cause of the next.
ONE_BY_ONE_AFTER = 2
# A topic is barred this long for messages of about the size of the one that was given up there.
TOPIC_BARRED_S = 600.0
# Fixed header with the length, the topic's length, the packet number.
_OVERHEAD_BYTES = 5 + 2 + 2


class PublishResult(StrEnum):
    """How a message ended."""

    CONFIRMED = "confirmed"  # the broker has it
    FORBIDDEN = "forbidden"  # this client may not publish to that topic
    UNSENDABLE = "unsendable"  # too large, not valid there, or connections break on it
    POSTPONED = "postponed"  # not now: a quota, or a fault of the broker


class Outbox:
    """Messages have paho's packet numbers. The broker may allow less than `max_packet_bytes`, the configured limit."""

    def __init__(
        self, client: paho.Client, max_packet_bytes: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.published = self.dropped = 0
        # For messages that the broker refused for good or broke connections on, when (seconds of the clock) and why.
        self.refusals: deque[tuple[float, str]] = deque(maxlen=16)
        self._client = client
        # By packet number, in the order in which paho sends.
        self._waiting: MutableMapping[int, paho.MQTTMessage] = client._out_messages
        # paho holds this lock while it calls back. It is re-entrant.
        self._lock = client._out_message_mutex
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
        self._found_stuck_at = 0.0
        # For each topic, from which size on messages are unsendable, and until when.
        self._barred: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        """Messages that the broker has not confirmed."""
        return len(self._waiting)

    def can_send(self, message: Publication | paho.MQTTMessage) -> bool:
        """Whether the broker takes a message of this size to this topic, as far as is known."""
        if self._max_bytes is None and message.topic not in self._barred:
            return True
        size = self._packet_bytes(message)
        unsendable_from, until = self._barred.get(message.topic, (0, 0.0))
        is_barred = size >= unsendable_from and self._clock() < until
        return not is_barred and (self._max_bytes is None or size <= self._max_bytes)

    def _packet_bytes(self, message: Publication | paho.MQTTMessage) -> int:
        """An upper bound."""
        properties = self._properties(message) if isinstance(message, Publication) else message.properties
        packed = b"" if properties is None else properties.pack()  # type: ignore[no-untyped-call]
        topic = message.topic.encode("utf-8", "surrogatepass")
        return len(topic) + len(message.payload) + len(packed) + _OVERHEAD_BYTES

    def publish(self, publication: Publication) -> int | None:
        """Sends a message, or queues it while offline. Gives its packet number for `take_results`, None if dropped."""
        if not self.can_send(publication):
            self._log_drop(publication, "the broker accepts none of this size there")
        elif publication.qos and len(self) >= MAX_QUEUED:
            self._log_drop(publication, f"{MAX_QUEUED} messages are already waiting for the broker")
        elif (number := self._hand_over(publication)) is not None:
            self.published += 1
            return number
        self.dropped += 1
        return None

    def _hand_over(self, publication: Publication) -> int | None:
        """None if the topic is bad, which is logged, or if at QoS 0 there is no connection."""
        arguments = (publication.topic, publication.payload, publication.qos, publication.retain)
        properties = self._properties(publication)
        try:
            with self._lock:
                if not self._waiting:
                    self._first_sent_at = self._clock()
                info = self._client.publish(*arguments, properties=properties)
                while info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # a message with the next number waits still
                    info = self._client.publish(*arguments, properties=properties)
        except ValueError as error:
            self._log_drop(publication, str(error))
            return None
        # MQTT_ERR_NO_CONN means "queued" at QoS 1 and "lost" at QoS 0.
        is_lost = publication.qos == 0 and info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS
        return None if is_lost else info.mid

    def _properties(self, publication: Publication) -> Properties | None:
        is_v5 = self._client.protocol == MQTTProtocolVersion.MQTTv5
        return mqtt5_properties(publication, PacketTypes.PUBLISH) if is_v5 else None

    def take_results(self) -> list[tuple[int, PublishResult]]:
        """Packet numbers and results since the last call. To be called often."""
        return [self._results.popleft() for _ in range(len(self._results))]

    def is_newly_stuck(self) -> bool:
        """Whether messages wait and nothing has been confirmed for CONFIRMED_WITHIN_S; then false for as long again."""
        now = self._clock()
        if not self._waiting or now - max(self._first_sent_at, self._found_stuck_at) < CONFIRMED_WITHIN_S:
            return False
        self._found_stuck_at = now
        return True

    def on_confirmed(self, number: int) -> None:
        self._end(number, PublishResult.CONFIRMED)

    def on_refused(self, number: int, result: PublishResult, words: str) -> None:
        """`words` are the broker's reason."""
        message = self._waiting.get(number)
        log.error("the broker refuses a message topic=%r: %s", cut(message.topic) if message else "?", words)
        if result is not PublishResult.POSTPONED:
            self.refusals.append((self._clock(), words))
        self._end(number, result)

    def _end(self, number: int, result: PublishResult) -> None:
        if number in self._waiting:  # paho also reports messages at QoS 0
            self._suspect, self._breaks = None, 0
            self._first_sent_at = self._clock()
            self._results.append((number, result))
            self._limit_in_flight()

    def _limit_in_flight(self) -> int:
        """Sets how many messages paho sends without a PUBACK, from the next message on; returns that number."""
        count = 1 if self._breaks >= ONE_BY_ONE_AFTER else self._max_in_flight
        self._client._max_inflight_messages = count  # paho refuses to change it while connected
        return count

    def on_connected(self, max_packet_bytes: int | None, max_in_flight: int | None = None) -> None:
        """To be called before anything is sent. The arguments are the broker's limits, None if it named none."""
        limits = [limit for limit in (self._configured_max_bytes, max_packet_bytes) if limit is not None]
        self._max_bytes = min(limits, default=None)
        self._max_in_flight = min(MAX_IN_FLIGHT, max_in_flight or MAX_IN_FLIGHT)
        self._first_sent_at = self._clock()
        with self._lock:
            self._drop_unsendable(f"the broker accepts no packet of more than {self._max_bytes} bytes")
            count = self._limit_in_flight()
            # paho has already marked all that waits to be sent at once. If nothing is marked, it never sends anything.
            for place, message in enumerate(self._waiting.values()):
                message.state = paho.mqtt_ms_publish if place < count else paho.mqtt_ms_queued

    def on_disconnected(self) -> None:
        with self._lock:
            first = next(iter(self._waiting), None)
        if self._clock() - self._first_sent_at > BREAKS_WITHIN_S:
            first = None
        self._breaks = 0 if first is None else self._breaks + 1 if first == self._suspect else 1
        self._suspect = first

    def on_connecting(self) -> None:
        """To be called before an attempt to connect. When a connection is lost, paho may be busy with its queue."""
        with self._lock:
            if self._breaks < MAX_BREAKS or self._suspect is None or self._suspect not in self._waiting:
                return
            now, message = self._clock(), self._waiting[self._suspect]
            # An answer that is sent again, and the next value of a retained topic, may be a little shorter.
            unsendable_from = self._packet_bytes(message) * 9 // 10
            self._barred = {topic: bar for topic, bar in self._barred.items() if bar[1] > now}
            self._barred[message.topic] = (unsendable_from, now + TOPIC_BARRED_S)
            self._drop_unsendable(f"{self._breaks} connections broke while one of this size was being sent there")
            self.refusals.append((now, "the broker closes the connection"))
            self._suspect, self._breaks = None, 0

    def _drop_unsendable(self, why: str) -> None:
        for number, message in list(self._waiting.items()):
            if not self.can_send(message):
                del self._waiting[number]
                self._results.append((number, PublishResult.UNSENDABLE))
                self.dropped += 1
                self._log_drop(message, why)

    def _log_drop(self, message: Publication | paho.MQTTMessage, why: str) -> None:
        log.error("message dropped topic=%r bytes=%d: %s", cut(message.topic), len(message.payload), why)


def mqtt5_properties(publication: Publication, packet_type: int) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in (
        ("MessageExpiryInterval", publication.expiry_s),
        ("CorrelationData", publication.correlation),
        ("ContentType", publication.content_type),
        ("ResponseTopic", publication.response_topic),
    ):
        if value is not None:
            setattr(properties, name, value)
    return properties
