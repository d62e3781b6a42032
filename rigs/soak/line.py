"""A caller's connection: what it hears goes to one function, nothing is kept."""

from __future__ import annotations

from collections.abc import Callable

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.helpers.client import send_at_once

# MQTT 5 properties of a message, as paho names them.
PropertyValues = dict[str, object]
MAX_INFLIGHT = 1000


class Line:
    """on_message: topic, payload; called by the network thread. on_taken: the number that `publish` gave."""

    def __init__(
        self,
        port: int,
        protocol: str,
        filters: tuple[str, ...],
        on_message: Callable[[str, bytes], None],
        on_taken: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.is_v5 = protocol == "5"
        self._filters = filters
        version = MQTTProtocolVersion.MQTTv5 if self.is_v5 else MQTTProtocolVersion.MQTTv311
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._client.max_inflight_messages_set(MAX_INFLIGHT)
        self._client.on_socket_open = send_at_once
        self._client.on_connect = self._on_connect
        self._client.on_message = lambda _client, _userdata, message: on_message(message.topic, bytes(message.payload))
        self._client.on_publish = lambda _client, _userdata, number, *_: on_taken(number)
        self._client.connect("127.0.0.1", port, 30)
        self._client.loop_start()

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe([(one, 1) for one in self._filters])

    def publish(
        self, topic: str, payload: bytes | str, *, qos: int = 1, retain: bool = False, **properties: object
    ) -> int:
        """Gives its number. properties: MQTT 5 only, not sent at 3.1.1. Raises ValueError for what MQTT cannot say."""
        given = None
        if self.is_v5 and properties:
            given = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            for name, value in properties.items():
                setattr(given, name, value)
        return self._client.publish(topic, payload, qos=qos, retain=retain, properties=given).mid

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
