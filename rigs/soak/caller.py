"""A caller's connection to the broker. Messages go to one function; nothing is kept."""

from __future__ import annotations

from collections.abc import Callable

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.helpers.client import send_at_once

_MAX_IN_FLIGHT = 1000


class Caller:
    """on_message: topic, payload. on_acknowledged: the number that `publish` returned. Both on its network thread."""

    def __init__(
        self,
        port: int,
        protocol: str,
        filters: tuple[str, ...],
        on_message: Callable[[str, bytes], None],
        on_acknowledged: Callable[[int], None] = lambda _: None,
    ) -> None:
        version = MQTTProtocolVersion.MQTTv5 if protocol == "5" else MQTTProtocolVersion.MQTTv311
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version)
        self._client.max_inflight_messages_set(_MAX_IN_FLIGHT)
        self._client.on_socket_open = send_at_once
        self._client.on_connect = lambda client, *_: client.subscribe([(one, 1) for one in filters])
        self._client.on_message = lambda _client, _userdata, message: on_message(message.topic, bytes(message.payload))
        self._client.on_publish = lambda _client, _userdata, number, *_: on_acknowledged(number)
        self._client.connect("127.0.0.1", port, 30)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes | str) -> int:
        """At QoS 1; returns the message's number."""
        return self._client.publish(topic, payload, qos=1).mid

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
