"""One connection to the broker that comes back by itself. The agent holds two of them.

Threads: paho's network thread calls the callbacks here; they only put events into the agent's inbox. `publish`,
`acknowledge` and `set_subscriptions` may be called from the agent's thread at any time.
"""

from __future__ import annotations

import logging
import random
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.core.config import MqttConfig
from edge_agent.core.inbound import Message
from edge_agent.core.publications import Publication
from edge_agent.mqtt.credentials import connection_fault, read_secret, tls_context
from edge_agent.mqtt.first_in_line import MAX_IN_FLIGHT
from edge_agent.mqtt.link_events import TAKEN_OVER, Broken, Connected, Disconnected, LinkEvent, Received
from edge_agent.mqtt.outbox import Fate, Outbox
from edge_agent.mqtt.paho_queue import PahoQueue, properties

log = logging.getLogger(__name__)

# A broker finds a dead connection after 1.5 keepalives and a second or two, then the will waits for its delay: together
# less than the 20 s that `state` may lag behind.
KEEPALIVE_S = 7
SESSION_EXPIRY_S = 3600
WILL_DELAY_S = 5
# A network thread that is at work sends something at least once per keepalive.
NETWORK_SILENCE_S = 60.0
BACK_OFF_S = (1.0, 15.0)
# Reason codes of a PUBACK: not authorized, topic name invalid, payload format invalid.
_REFUSALS = {0x87: Fate.FORBIDDEN, 0x90: Fate.FORBIDDEN, 0x99: Fate.UNTAKEN}


class MqttLink:
    """One connection.

    will: asked for at each attempt, because a will names its session. is_persistent: the broker keeps what comes while
    this connection is down; without it each connection starts clean. wants_retained: a subscription is answered with
    what the broker has retained (at MQTT 3.1.1 it always is). beside: while that one is connected, this one goes to no
    other broker.
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
        beside: MqttLink | None = None,
    ) -> None:
        self.client_id = client_id
        self.is_connected = False
        # The one that is connected, or was tried last.
        self.host = config.hosts[0]
        self._beside = beside
        self._is_left = False
        self._is_unanswered = False
        # In a row, of the brokers in turn.
        self._failures = 0
        self.connects = 0
        self.disconnects: deque[float] = deque(maxlen=16)  # seconds of the monotonic clock
        self._is_v5 = config.protocol == "5"
        self._config = config
        self._deliver = deliver
        self._will = will
        self._filters: frozenset[str] = frozenset()
        # Those that were wanted before: the broker's session may know them still.
        self.former: frozenset[str] = frozenset()
        # By filter: why the broker refuses it; None = it does not.
        self.subscribed: dict[str, str | None] = {}
        self._asked: dict[int | None, str] = {}
        self._ended: dict[int | None, str] = {}
        self._lock = threading.Lock()
        protocol = MQTTProtocolVersion.MQTTv5 if self._is_v5 else MQTTProtocolVersion.MQTTv311
        # paho's default of a clean start at the first connect would throw away what the broker kept for us.
        self._is_persistent = is_persistent
        self._retain_handling = (
            SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if wants_retained else SubscribeOptions.RETAIN_DO_NOT_SEND
        )
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            manual_ack=True,
            clean_session=None if self._is_v5 else not is_persistent,
        )
        self._client.on_socket_open = _send_at_once
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_unsubscribe = self._on_unsubscribe
        self._client.on_pre_connect = self._on_pre_connect
        self._queue = PahoQueue(self._client)
        self.outbox = Outbox(self._queue)
        self._read_credentials()

    def _read_credentials(self) -> None:
        """Raises OSError, ValueError; what was read before stays."""
        config = self._config
        if config.username is not None or config.password_file is not None:
            password = None if config.password_file is None else read_secret(config.password_file)
            self._client.username_pw_set(config.username or "", password)
        if config.tls is not None:
            context = tls_context(config.tls)
            self._client._ssl_context = None  # noqa: SLF001 - paho takes one only once
            self._client.tls_set_context(context)

    @property
    def broker(self) -> str:
        """Host and port of the one that is connected, or was tried last."""
        return f"{self.host}:{self._config.effective_port}"

    def _next_host(self) -> str:
        if self._beside is not None and self._beside.is_connected:
            return self._beside.host
        hosts = self._config.hosts
        return hosts[self._failures % len(hosts)]

    def start(self) -> None:
        """Connects in the background, and again whenever the connection is lost."""
        self._set_back_off()
        arguments: dict[str, Any] = {}
        if self._is_v5:
            asked = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            # A will can only be delayed as long as its session lives.
            asked.SessionExpiryInterval = SESSION_EXPIRY_S if self._is_persistent else WILL_DELAY_S
            arguments = {"clean_start": not self._is_persistent, "properties": asked}
        self._client.connect_async(self.host, self._config.effective_port, KEEPALIVE_S, **arguments)
        self._client.loop_start()

    def stop(self, timeout_s: float) -> None:
        """Sends what waits for at most timeout_s, says goodbye, ends the network thread."""
        deadline = time.monotonic() + timeout_s
        idle = threading.Event()
        while self.is_connected and len(self.outbox) > 0 and time.monotonic() < deadline:
            self.outbox.send_last()
            idle.wait(0.01)
        self._client.disconnect()
        # loop_stop() alone waits for ever on a frozen broker.
        stopper = threading.Thread(target=self._client.loop_stop, name=f"{self.client_id}-stop", daemon=True)
        stopper.start()
        stopper.join(max(0.5, deadline - time.monotonic()))

    @property
    def is_at_work(self) -> bool:
        """Whether the network thread goes on; `is_connected` stays true when it is stuck, or was ended by an error."""
        thread = self._client._thread  # noqa: SLF001 - paho offers no other way to see it, nor when it wrote last
        if thread is None or not thread.is_alive():
            return False
        return not self.is_connected or time.monotonic() - self._client._last_msg_out <= NETWORK_SILENCE_S  # noqa: SLF001

    @property
    def unheard(self) -> list[str]:
        """Filters that the broker lets us not subscribe to."""
        return sorted(text for text in self._filters if self.subscribed.get(text) is not None)

    def leave(self) -> None:
        """Breaks the connection, to make it anew with the broker of `beside`, else with the next one in turn."""
        connection: Any = self._client.socket()
        if connection is not None and self.is_connected:
            self._is_left = True
            # Not what TLS makes of it, which the network thread may be reading through.
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def set_subscriptions(self, filters: Iterable[str], former: Iterable[str] = ()) -> None:
        """These are the subscriptions from now on, at this and later connections. former: of an earlier process."""
        wanted = frozenset(filters)
        # What is sent comes in the order of what is wanted, whichever thread sends it.
        with self._lock:
            added = wanted - self._filters
            self.former = self.former.union(self._filters, former) - wanted
            self._filters = wanted
            if self.is_connected:
                # In this order: a topic that falls under a filter of either kind is heard all the time.
                self._subscribe(added)
                self._unsubscribe(self.former)

    def publish(self, publication: Publication) -> int | None:
        """Hands a message over; while offline it waits. Gives its number, for `outbox.take_fates`.

        None: dropped, because too many wait, the topic is bad, or the broker takes no packet of this size.
        """
        return self.outbox.publish(publication)

    def acknowledge(self, received: Received) -> None:
        """Sends the PUBACK; does nothing once the connection that the message came on is gone."""
        message = received.message
        if message.qos > 0 and received.epoch == self.connects and self.is_connected:
            self._client.ack(message.packet_id, message.qos)

    def _on_pre_connect(self, client: paho.Client, _userdata: object) -> None:
        self._is_unanswered = True
        self.outbox.connection_is_tried()
        try:
            # A certificate or a password may be another one by now.
            self._read_credentials()
        except (OSError, ValueError) as error:
            log.warning("credentials cannot be read anew client=%s: %s", self.client_id, error)
        client._host = self.host = self._next_host()  # noqa: SLF001 - paho takes another one only between two connect() of the caller
        if self._will is None:
            return
        try:
            will = self._will()
            told = properties(will, PacketTypes.WILLMESSAGE) if self._is_v5 else None
            if told is not None:
                told.WillDelayInterval = WILL_DELAY_S
            self._client.will_set(will.topic, will.payload, will.qos, will.retain, told)
        except Exception:
            log.exception("no will could be set client=%s", self.client_id)

    def _on_connect(
        self, _client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, told: object
    ) -> None:
        self._is_unanswered = False
        if reason.is_failure:
            self._fail(Broken.REFUSED, str(reason))
            return
        self.outbox.connection_made(
            getattr(told, "MaximumPacketSize", None),
            min(MAX_IN_FLIGHT, getattr(told, "ReceiveMaximum", MAX_IN_FLIGHT)),
        )
        self._queue.line_up(self.outbox.in_flight)
        self._asked.clear()
        self._ended.clear()
        self.connects += 1
        with self._lock:
            self.is_connected = True
            self._subscribe(self._filters)
            if self._is_persistent:
                self._unsubscribe(self.former)
            else:
                self.former = frozenset()
        self._deliver(Connected(link=self))

    def _on_connect_fail(self, _client: paho.Client, _userdata: object) -> None:
        # paho calls this while it handles the error, and does not tell it.
        self._fail(Broken.NOT_REACHED, connection_fault(sys.exception()))

    def _fail(self, broken: Broken, reason: str) -> None:
        told = f"{self.host}: {reason}" if len(self._config.hosts) > 1 and reason != TAKEN_OVER else reason
        self._failures += 1
        self._deliver(Disconnected(link=self, broken=broken, reason=told))

    def _on_disconnect(
        self, _client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        was_connected, self.is_connected = self.is_connected, False
        was_unanswered, self._is_unanswered = self._is_unanswered, False
        if was_connected:
            self.disconnects.append(time.monotonic())
            self.outbox.connection_broken()
            self._set_back_off(is_taken_over=reason == TAKEN_OVER)
            # What paho says of a connection that ended without a word of the broker's.
            words = "it ended without a word" if reason == "Unspecified error" else str(reason)
            self._fail(Broken.LOST, "left for another broker" if self._is_left else words)
            # The others stand in for the first one: it is tried before them each time, unless it was left.
            self._failures = self._config.hosts.index(self.host) + 1 if self._is_left else 0
            self._is_left = False
        elif was_unanswered:
            self._fail(Broken.NOT_ANSWERED, f"no answer to a CONNECT of MQTT {self._config.protocol}")

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        try:
            told = message.properties if self._is_v5 else None
            self._deliver(
                Received(
                    link=self,
                    epoch=self.connects,
                    message=Message(
                        topic=message.topic,
                        payload=bytes(message.payload),
                        qos=message.qos,
                        packet_id=message.mid,
                        is_retained=message.retain,
                        is_duplicate=message.dup,
                        response_topic=getattr(told, "ResponseTopic", None),
                        correlation=getattr(told, "CorrelationData", None),
                        content_type=getattr(told, "ContentType", None),
                        expiry_s=getattr(told, "MessageExpiryInterval", None),
                        received_at=time.monotonic(),
                    ),
                )
            )
        except Exception:
            log.exception("message lost client=%s", self.client_id)

    def _on_subscribe(
        self, _client: paho.Client, _userdata: object, number: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        self.outbox.answered()
        topic_filter = self._asked.pop(number, None)
        refused = next((str(reason) for reason in reasons if reason.is_failure), None)
        if topic_filter is not None:
            self.subscribed[topic_filter] = refused
        if refused is not None:
            log.error("subscription refused client=%s topic=%r reason=%s", self.client_id, topic_filter, refused)

    def _on_unsubscribe(
        self, _client: paho.Client, _userdata: object, number: int, _reasons: object, _properties: object
    ) -> None:
        with self._lock:
            if (topic_filter := self._ended.pop(number, None)) is not None:
                self.former -= {topic_filter}

    def _on_publish(
        self, client: paho.Client, _userdata: object, number: int, reason: ReasonCode, _properties: object
    ) -> None:
        if reason.is_failure:
            self.outbox.refused(number, _REFUSALS.get(reason.value, Fate.POSTPONED), str(reason))
        else:
            self.outbox.confirmed(number)
        self._queue.send_at_once(self.outbox.in_flight)
        # A PUBACK needs no answer that would carry our TCP acknowledgement, and a broker whose socket uses Nagle's
        # algorithm holds the next request back until it has that. The kernel forgets the option: it is set each time.
        connection: Any = client.socket()
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _unsubscribe(self, filters: Iterable[str]) -> None:
        for topic_filter in sorted(filters):
            _, number = self._client.unsubscribe(topic_filter)
            self._ended[number] = topic_filter

    def _subscribe(self, filters: Iterable[str]) -> None:
        for topic_filter in sorted(filters):
            if self._is_v5:
                options = SubscribeOptions(qos=1, retainAsPublished=False, retainHandling=self._retain_handling)
                _, number = self._client.subscribe(topic_filter, options=options)
            else:
                _, number = self._client.subscribe(topic_filter, qos=1)
            self._asked[number] = topic_filter

    def _set_back_off(self, *, is_taken_over: bool = False) -> None:
        # paho doubles its delay but knows no jitter: fifty boards would knock at a returning broker in step.
        shortest, longest = BACK_OFF_S
        if is_taken_over:
            # Two agents of one name would throw each other out every second, and lose requests each time.
            shortest = longest / 1.5
        self._client.reconnect_delay_set(
            shortest * random.uniform(0.5, 1.5),  # type: ignore[arg-type]  # noqa: S311
            longest * random.uniform(0.5, 1.0),  # type: ignore[arg-type]  # noqa: S311
        )


def _send_at_once(_client: paho.Client, _userdata: object, connection: Any) -> None:
    # Nagle's algorithm holds a reply back until the broker's kernel has acknowledged the packet before: up to 40 ms.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
