"""A caller's connection to the broker, on paho. Messages go to one function; nothing is kept."""

import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.helpers.processes import WAIT_S

_SESSION_S = 3600
_IN_FLIGHT = 1000


class Caller:
    """The connection is made when the broker has confirmed the filters. With `ca_file` it is over TLS.

    `on_message` and `on_acknowledged`, which takes the number of a message, run on the network thread. `session` is the
    client id of a session that outlives a connection.
    """

    def __init__(
        self,
        port: int,
        protocol: str,
        filters: tuple[str, ...] = (),
        on_message: Callable[[paho.MQTTMessage], None] = lambda _: None,
        on_acknowledged: Callable[[int], None] = lambda _: None,
        *,
        session: str | None = None,
        in_flight: int = _IN_FLIGHT,
        qos: int = 1,
        has_nodelay: bool = True,
        user: tuple[str, str] | None = None,
        ca_file: Path | None = None,
    ) -> None:
        is_v5, is_kept = protocol == "5", session is not None
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            session or "",
            clean_session=None if is_v5 else not is_kept,
            protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
        )
        self._client.max_inflight_messages_set(in_flight)
        self._client.reconnect_delay_set(1, 2)
        if has_nodelay:
            self._client.on_socket_open = send_at_once
        is_subscribed = threading.Event()
        if filters:
            self._client.on_connect = lambda client, *_: client.subscribe([(one, qos) for one in filters])
            self._client.on_subscribe = lambda *_: is_subscribed.set()
        self._client.on_message = lambda _client, _userdata, message: on_message(message)
        self._client.on_publish = lambda _client, _userdata, number, *_: on_acknowledged(number)
        more: dict[str, Any] = {}
        if is_v5 and is_kept:
            more = {"clean_start": False, "properties": Properties(PacketTypes.CONNECT)}  # type: ignore[no-untyped-call]
            more["properties"].SessionExpiryInterval = _SESSION_S
        if user is not None:
            self._client.username_pw_set(*user)
        if ca_file is not None:
            self._client.tls_set(ca_certs=str(ca_file))
        host = "127.0.0.1" if ca_file is None else "localhost"
        self._client.connect(host, port, 10 if is_kept else 30, **more)
        self._client.loop_start()
        assert not filters or is_subscribed.wait(WAIT_S), "the broker confirms no subscription"

    def send(
        self,
        topic: str,
        payload: bytes | str,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Mapping[str, Any] | None = None,
    ) -> paho.MQTTMessageInfo:
        """Does not wait for the broker. `properties` have paho's names, and are only for MQTT 5."""
        given = None
        if properties:
            given = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            for name, value in properties.items():
                setattr(given, name, value)
        return self._client.publish(topic, payload, qos=qos, retain=retain, properties=given)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()  # paho has no other way to close the sockets that wake its thread


def send_at_once(_client: object, _userdata: object, connection: Any) -> None:
    """Nagle's algorithm would add to the agent's latency."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
