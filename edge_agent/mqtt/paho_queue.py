"""paho's own queue: what is handed to it waits there for a connection, then for its PUBACK.

paho offers no other way to it than its private attributes.
"""
# ruff: noqa: SLF001

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.core.errors import cut
from edge_agent.core.publications import Publication

log = logging.getLogger(__name__)

# Of a packet: the topic's length, a number, and a header with the length of all.
OVERHEAD_BYTES = 2 + 2 + 5
# They go from 1 to this one, and from the start again.
_NUMBERS = 65535


class PahoQueue:
    """Messages are new ones, or those of paho that have waited before."""

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        # By paho's numbers, in the order in which they are sent.
        self.waiting: MutableMapping[int, Any] = client._out_messages
        # paho calls with it held, so another one beside it could lock two threads up. It may be taken twice.
        self.lock = client._out_message_mutex

    def hand_over(self, message: Publication | paho.MQTTMessage) -> int | None:
        """Its number; None: dropped, which is logged unless it is lost for want of a connection, as at QoS 0."""
        properties = self._properties(message)
        self._pass_over_numbers_in_use()
        try:
            info = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
            while info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                # A SUBSCRIBE of the network thread's came between.
                info = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        except ValueError as error:
            log.warning("publication dropped topic=%r reason=%s", cut(message.topic), error)
            return None
        # MQTT_ERR_NO_CONN means "queued" at QoS 1 and "lost" at QoS 0.
        is_lost = message.qos == 0 and info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS
        return None if is_lost else info.mid

    def _pass_over_numbers_in_use(self) -> None:
        """paho tells by number that a QoS 0 message was sent: what waits under the same would be confirmed."""
        client = self._client
        with client._mid_generate_mutex:
            while (number := client._last_mid % _NUMBERS + 1) in self.waiting:
                client._last_mid = number

    def packet_bytes(self, message: Publication | paho.MQTTMessage) -> int:
        """At most."""
        properties = self._properties(message)
        packed = b"" if properties is None else properties.pack()  # type: ignore[no-untyped-call]
        return len(message.topic.encode("utf-8", "surrogatepass")) + len(message.payload) + len(packed) + OVERHEAD_BYTES

    def send_at_once(self, count: int) -> None:
        """So many are sent without a PUBACK, from the next one on."""
        self._client._max_inflight_messages = count

    def line_up(self, count: int) -> None:
        """The same, before anything is sent on a connection.

        paho has marked what it is about to send. If none of that were left, it would wait for a first PUBACK for ever.
        """
        self.send_at_once(count)
        with self.lock:
            for place, message in enumerate(self.waiting.values()):
                if message.state in (paho.mqtt_ms_publish, paho.mqtt_ms_queued):
                    message.state = paho.mqtt_ms_publish if place < count else paho.mqtt_ms_queued

    def _properties(self, message: Publication | paho.MQTTMessage) -> Properties | None:
        if not isinstance(message, Publication):
            return message.properties
        return properties(message, PacketTypes.PUBLISH) if self._client.protocol == MQTTProtocolVersion.MQTTv5 else None


def properties(publication: Publication, packet_type: int) -> Properties:
    """What travels beside it at MQTT 5."""
    told = Properties(packet_type)  # type: ignore[no-untyped-call]
    if publication.expiry_s is not None:
        told.MessageExpiryInterval = publication.expiry_s
    if publication.correlation is not None:
        told.CorrelationData = publication.correlation
    if publication.content_type is not None:
        told.ContentType = publication.content_type
    if publication.response_topic is not None:
        told.ResponseTopic = publication.response_topic
    return told
