"""One connection to the broker that comes back by itself. The agent holds two of them.

Threads: paho's network thread runs the callbacks, which put events into the agent's inbox. Public methods may be called
from the agent's thread at any time.
"""

from __future__ import annotations

import logging
import random
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Message, Publication
from edge_agent.mqtt.credentials import connection_fault, read_secret, tls_context
from edge_agent.mqtt.outbox import Outbox, PublishResult, mqtt5_properties
from edge_agent.mqtt.subscriptions import Subscriptions

log = logging.getLogger(__name__)

# A broker finds a dead connection after 1.5 keepalives and a second or two, then the will waits for its delay. Together
# that is less than the 20 s that `state` may be late.
KEEPALIVE_S = 7
SESSION_EXPIRY_S = 3600
WILL_DELAY_S = 5
# A working network thread sends something at least once per keepalive.
NETWORK_SILENCE_S = 60.0
BACK_OFF_S = (1.0, 15.0)
# Reason codes of a PUBACK: not authorized, topic name invalid, payload format invalid. Other failures are temporary.
_REFUSALS = {0x87: PublishResult.FORBIDDEN, 0x90: PublishResult.FORBIDDEN, 0x99: PublishResult.UNSENDABLE}
TAKEN_OVER = "Session taken over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message that waits for `link.acknowledge`."""

    link: MqttLink
    epoch: int
    """Which connection of the link brought it, counted from 1."""
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    link: MqttLink


class FailedAt(StrEnum):
    """How far a connection had come when it failed."""

    NOT_REACHED = "not reached"  # no TCP connection, or no TLS over it
    NOT_ANSWERED = "not answered"  # no CONNACK
    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFailed:
    """The connection was lost, or an attempt failed."""

    link: MqttLink
    failed_at: FailedAt
    reason: str
    """In the words of the broker or the system."""


@dataclass(frozen=True, slots=True)
class Published:
    """The outbox has results."""


LinkEvent = Received | Connected | ConnectionFailed | Published


class _PahoClient(paho.Client):
    """Says when the broker sends anything, also what paho keeps to itself, such as the answer to a ping."""

    on_packet: Callable[[], object] = staticmethod(lambda: None)

    def _packet_handle(self) -> MQTTErrorCode:
        self.on_packet()
        return super()._packet_handle()


class MqttLink:
    """One connection.

    Args:
        will: Called at each attempt, because a will names its session.
        is_persistent: The broker keeps messages while this connection is down. Otherwise each connection starts clean.
        wants_retained: A subscription also delivers retained messages. At MQTT 3.1.1 it always does.
        qos: The QoS of its subscriptions.
        follows: While that link is connected, this one goes to the same broker.
        will_delay_s: A will waits this long for the connection to come back.
        reports_published: The outbox's results cause events. Otherwise they are taken at the next event.
    """

    def __init__(
        self,
        client_id: str,
        config: MqttConfig,
        deliver: Callable[[LinkEvent], None],
        *,
        will: Callable[[], Publication] | None = None,
        is_persistent: bool = False,
        wants_retained: bool = False,
        qos: int = 1,
        follows: MqttLink | None = None,
        will_delay_s: int = WILL_DELAY_S,
        reports_published: bool = False,
    ) -> None:
        self.client_id = client_id
        self.is_connected = False
        self.host = config.hosts[0]  # connected, or tried last
        self.limits: dict[str, Any] = {}  # what the CONNACK of MQTT 5 says, by paho's names of the properties
        self.delays_tcp_acks = False  # as the kernel does for clients that set nothing
        self.connects = 0
        # When the broker last sent anything, in seconds of the monotonic clock. While it lives, it sends at least the
        # answer to a ping in each keepalive.
        self.heard_at = 0.0
        self.disconnects: deque[float] = deque(maxlen=16)  # seconds of the monotonic clock
        self._config = config
        self._deliver = deliver
        self._will = will
        self._is_persistent = is_persistent
        self._wants_retained = wants_retained
        self._qos = qos
        self._follows = follows
        self._will_delay_s = will_delay_s
        self._reports_published = reports_published
        self._is_v5 = config.protocol == "5"
        self._failures = 0  # in a row
        self._awaits_connack = False
        self._client = self._new_client()
        self.outbox = Outbox(self._client, config.max_packet_bytes)
        self.subscriptions = Subscriptions(self._subscribe, self._client.unsubscribe)
        self._read_credentials()

    def _new_client(self) -> paho.Client:
        client = _PahoClient(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_v5 else MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
            clean_session=None if self._is_v5 else not self._is_persistent,
        )
        client.on_socket_open = _disable_nagle
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_packet = self._note_heard
        return client

    def _read_credentials(self) -> None:
        """Raises OSError, ValueError; what was read before stays."""
        config = self._config
        if config.username is not None or config.password_file is not None:
            password = None if config.password_file is None else read_secret(config.password_file)
            self._client.username_pw_set(config.username or "", password)
        if config.tls is not None:
            context = tls_context(config.tls)
            self._client._ssl_context = None  # noqa: SLF001 - paho takes a context only once
            self._client.tls_set_context(context)

    @property
    def broker(self) -> str:
        """Host and port of the broker that is connected, or was tried last."""
        return f"{self.host}:{self._config.effective_port}"

    def start(self) -> None:
        """Connects in the background, and again whenever the connection is lost."""
        self._set_back_off()
        arguments: dict[str, Any] = {}
        if self._is_v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            # The broker delays a will only while its session lives.
            properties.SessionExpiryInterval = SESSION_EXPIRY_S if self._is_persistent else self._will_delay_s
            # paho's default, a clean start at the first connection, would drop what the broker kept.
            arguments = {"clean_start": not self._is_persistent, "properties": properties}
        self._client.connect_async(self.host, self._config.effective_port, KEEPALIVE_S, **arguments)
        self._client.loop_start()

    def stop(self, timeout_s: float) -> None:
        """Sends what waits for at most timeout_s, disconnects, ends the network thread."""
        deadline = time.monotonic() + timeout_s
        idle = threading.Event()
        while self.is_connected and len(self.outbox) > 0 and time.monotonic() < deadline:
            idle.wait(0.01)
        self._client.disconnect()
        # loop_stop() never returns while the broker is frozen.
        stopper = threading.Thread(target=self._end_network_thread, name=f"{self.client_id}-stop", daemon=True)
        stopper.start()
        stopper.join(max(0.5, deadline - time.monotonic()))

    def _end_network_thread(self) -> None:
        self._client.loop_stop()
        # Otherwise the sockets that wake the thread stay open until the garbage collector finds the client.
        self._client._reset_sockets()  # noqa: SLF001 - paho has no way to close them

    @property
    def is_network_thread_alive(self) -> bool:
        """Whether the network thread runs; `is_connected` stays true when it hangs or an error ended it."""
        thread = self._client._thread  # noqa: SLF001 - paho shows neither the thread nor its last write otherwise
        if thread is None or not thread.is_alive():
            return False
        return not self.is_connected or time.monotonic() - self._client._last_msg_out <= NETWORK_SILENCE_S  # noqa: SLF001

    def reconnect(self) -> None:
        """Breaks the connection, to connect to the broker of the link that this one follows."""
        connection: Any = self._client.socket()
        if connection is not None and self.is_connected:
            # The plain socket, because the network thread may be reading through TLS.
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def publish(self, publication: Publication) -> int | None:
        """Sends a message, or queues it while offline. Gives its number for `outbox.take_results`, None if dropped."""
        return self.outbox.publish(publication)

    def acknowledge(self, received: Received) -> None:
        """Sends the PUBACK; does nothing once the connection that the message came on is gone."""
        message = received.message
        if message.qos > 0 and received.epoch == self.connects and self.is_connected:
            self._client.ack(message.packet_id, message.qos)

    def _on_pre_connect(self, client: paho.Client, _data: object) -> None:
        self._awaits_connack = True
        self.outbox.on_connecting()
        try:
            # Certificates and passwords may have been replaced.
            self._read_credentials()
        except (OSError, ValueError) as error:
            log.warning("credentials cannot be read client=%s: %s", self.client_id, error)
        client._host = self.host = self._next_host()  # noqa: SLF001 - paho has no way to change it between attempts
        if self._will is not None:
            will = self._will()
            properties = mqtt5_properties(will, PacketTypes.WILLMESSAGE) if self._is_v5 else None
            if properties is not None and self._will_delay_s:
                properties.WillDelayInterval = self._will_delay_s
            self._client.will_set(will.topic, will.payload, will.qos, will.retain, properties)

    def _next_host(self) -> str:
        if self._follows is not None and self._follows.is_connected:
            return self._follows.host
        hosts = self._config.hosts
        return hosts[self._failures % len(hosts)]

    def _on_connect(self, _client: object, _data: object, _flags: object, reason: ReasonCode, connack: Any) -> None:
        self._awaits_connack = False
        if reason.is_failure:
            self._report(FailedAt.REFUSED, str(reason))
            return
        self.limits = {} if connack is None else connack.json()
        self.outbox.on_connected(self.limits.get("MaximumPacketSize"), self.limits.get("ReceiveMaximum"))
        self.connects += 1
        self.is_connected = True
        self.subscriptions.on_connected()
        self._deliver(Connected(link=self))

    def _note_heard(self) -> None:
        self.heard_at = time.monotonic()

    def _on_connect_fail(self, *_: object) -> None:
        # paho calls this inside its exception handler and does not pass the error.
        self._report(FailedAt.NOT_REACHED, connection_fault(sys.exception()))

    def _on_disconnect(self, _client: object, _data: object, _flags: object, reason: ReasonCode, *_: object) -> None:
        was_connected, self.is_connected = self.is_connected, False
        if was_connected:
            self.disconnects.append(time.monotonic())
            self.outbox.on_disconnected()
            self.subscriptions.on_disconnected()
            self._set_back_off(is_taken_over=reason == TAKEN_OVER)
            # paho's words for a connection that ended without a DISCONNECT.
            is_silent = reason == "Unspecified error"
            self._report(FailedAt.LOST, "the connection ended without a DISCONNECT" if is_silent else str(reason))
            self._failures = 0  # the first broker is tried first again
        elif self._awaits_connack:
            self._report(FailedAt.NOT_ANSWERED, f"no answer to an MQTT {self._config.protocol} CONNECT")
        self._awaits_connack = False

    def _report(self, failed_at: FailedAt, reason: str) -> None:
        self._failures += 1
        if len(self._config.hosts) > 1 and reason != TAKEN_OVER:
            reason = f"{self.host}: {reason}"
        self._deliver(ConnectionFailed(link=self, failed_at=failed_at, reason=reason))

    def _on_message(self, _client: object, _data: object, packet: paho.MQTTMessage) -> None:
        try:
            properties = packet.properties if self._is_v5 else None
            message = Message(
                topic=packet.topic,
                payload=bytes(packet.payload),
                qos=packet.qos,
                packet_id=packet.mid,
                is_retained=packet.retain,
                is_duplicate=packet.dup,
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation=getattr(properties, "CorrelationData", None),
                content_type=getattr(properties, "ContentType", None),
                expiry_s=getattr(properties, "MessageExpiryInterval", None),
                received_at=time.monotonic(),
            )
            self._deliver(Received(link=self, epoch=self.connects, message=message))
        except Exception:
            log.exception("message lost client=%s", self.client_id)

    def _subscribe(self, topic_filter: str) -> int | None:
        if not self._is_v5:
            return self._client.subscribe(topic_filter, qos=self._qos)[1]
        retained = (
            SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if self._wants_retained else SubscribeOptions.RETAIN_DO_NOT_SEND
        )
        options = SubscribeOptions(qos=self._qos, retainAsPublished=False, retainHandling=retained)
        return self._client.subscribe(topic_filter, options=options)[1]

    def _on_subscribe(self, _client: object, _data: object, number: int, reasons: list[ReasonCode], *_: object) -> None:
        self.subscriptions.on_answer(number, next((str(reason) for reason in reasons if reason.is_failure), None))

    def _on_publish(self, client: paho.Client, _data: object, number: int, reason: ReasonCode, *_: object) -> None:
        if reason.is_failure:
            self.outbox.on_refused(number, _REFUSALS.get(reason.value, PublishResult.POSTPONED), str(reason))
        else:
            self.outbox.on_confirmed(number)
        if self._reports_published:
            self._deliver(Published())
        # With Nagle's algorithm, the broker holds the next request back until it has our TCP acknowledgement. Nothing
        # answers a PUBACK and would carry that. The kernel forgets the option, so it is set each time.
        connection: Any = client.socket()
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, not self.delays_tcp_acks)

    def _set_back_off(self, *, is_taken_over: bool = False) -> None:
        # paho doubles its delay but has no jitter, so fifty boards would reconnect to a returning broker in step.
        shortest, longest = BACK_OFF_S
        if is_taken_over:
            # Two agents with one name would otherwise disconnect each other every second, and lose requests each time.
            shortest = longest / 1.5
        self._client.reconnect_delay_set(
            shortest * random.uniform(0.5, 1.5),  # type: ignore[arg-type]  # noqa: S311
            longest * random.uniform(0.5, 1.0),  # type: ignore[arg-type]  # noqa: S311
        )


def _disable_nagle(_client: object, _data: object, connection: Any) -> None:
    # Nagle's algorithm holds a reply back until the broker's kernel has acknowledged the previous packet, up to 40 ms.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
