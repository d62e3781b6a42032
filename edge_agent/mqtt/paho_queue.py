"""paho's queue of outgoing messages: a message waits there for a connection, then for its PUBACK.

paho offers no public access to it.
"""
# ruff: noqa: SLF001

from __future__ import annotations

import logging
from collections.abc import MutableMapping

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.core.errors import cut
from edge_agent.core.publications import Publication

log = logging.getLogger(__name__)

# Fixed header with the length, the topic's length, the packet number.
_OVERHEAD_BYTES = 5 + 2 + 2
# Packet numbers go from 1 to this one and start again.
_MAX_NUMBER = 65535


class PahoQueue:
    def __init__(self, client: paho.Client) -> None:
        self._client = client
        # By packet number, in the order in which paho sends.
        self.waiting: MutableMapping[int, paho.MQTTMessage] = client._out_messages
        # paho holds this lock while it calls back. It is re-entrant.
        self.lock = client._out_message_mutex

    def hand_over(self, publication: Publication) -> int | None:
        """Gives the packet number. None = dropped: the topic is bad (logged), or at QoS 0 there is no connection."""
        arguments = (publication.topic, publication.payload, publication.qos, publication.retain)
        try:
            while True:
                self._skip_numbers_in_use()
                info = self._client.publish(*arguments, properties=self._properties(publication))
                if info.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # a SUBSCRIBE of the network thread took the number
                    break
        except ValueError as error:
            log.warning("publication dropped topic=%r reason=%s", cut(publication.topic), error)
            return None
        # MQTT_ERR_NO_CONN means "queued" at QoS 1 and "lost" at QoS 0.
        is_lost = publication.qos == 0 and info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS
        return None if is_lost else info.mid

    def _skip_numbers_in_use(self) -> None:
        """paho reports a QoS 0 message as sent by its number, which must not be that of a waiting message."""
        with self._client._mid_generate_mutex:
            while (number := self._client._last_mid % _MAX_NUMBER + 1) in self.waiting:
                self._client._last_mid = number

    def packet_bytes(self, message: Publication | paho.MQTTMessage) -> int:
        """An upper bound."""
        properties = self._properties(message) if isinstance(message, Publication) else message.properties
        packed = b"" if properties is None else properties.pack()  # type: ignore[no-untyped-call]
        topic = message.topic.encode("utf-8", "surrogatepass")
        return len(topic) + len(message.payload) + len(packed) + _OVERHEAD_BYTES

    def limit_in_flight(self, count: int) -> None:
        """paho sends this many messages without a PUBACK, from the next message on."""
        self._client._max_inflight_messages = count

    def limit_next_connection(self, count: int) -> None:
        """As `limit_in_flight`, before paho sends anything on a new connection.

        paho has already marked what it will send first. If it marked none, it would never send anything.
        """
        self.limit_in_flight(count)
        with self.lock:
            for place, message in enumerate(self.waiting.values()):
                if message.state in (paho.mqtt_ms_publish, paho.mqtt_ms_queued):
                    message.state = paho.mqtt_ms_publish if place < count else paho.mqtt_ms_queued

    def _properties(self, publication: Publication) -> Properties | None:
        is_v5 = self._client.protocol == MQTTProtocolVersion.MQTTv5
        return mqtt5_properties(publication, PacketTypes.PUBLISH) if is_v5 else None


def mqtt5_properties(publication: Publication, packet_type: int) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    if publication.expiry_s is not None:
        properties.MessageExpiryInterval = publication.expiry_s
    if publication.correlation is not None:
        properties.CorrelationData = publication.correlation
    if publication.content_type is not None:
        properties.ContentType = publication.content_type
    if publication.response_topic is not None:
        properties.ResponseTopic = publication.response_topic
    return properties
