from __future__ import annotations

import getpass
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.config import MqttConfig
from edge_agent.credentials import connection_fault
from edge_agent.demo.broker import free_port
from edge_agent.link_events import Broken, Connected, Disconnected, LinkEvent
from edge_agent.mqtt_link import (
    KEEPALIVE_S,
    NETWORK_SILENCE_S,
    MqttLink,
)
from edge_agent.poison import BREAKS, POISON_AFTER, SHORT_CONNECTION_S
from edge_agent.publications import Publication
from tests.certificates import CERTIFICATE, KEY, OTHER_CERTIFICATE
from tests.processes import Mosquitto


@contextmanager
def hangs_up() -> Iterator[int]:
    """A server that reads what a client says first, and closes the connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def first_event(**fields: Any) -> Disconnected:
    events: queue.Queue[LinkEvent] = queue.Queue()
    link = MqttLink("c", MqttConfig.model_validate({"host": "127.0.0.1", **fields}), events.put)
    link.start()
    try:
        event = events.get(timeout=20)
    finally:
        link.stop(1.0)
    assert isinstance(event, Disconnected)
    return event


def test_a_broker_that_is_not_there_is_told_in_the_words_of_the_system() -> None:
    event = first_event(port=free_port())
    assert (event.broken, event.reason) == (Broken.NOT_REACHED, "Connection refused")


def test_a_broker_that_closes_the_connection_unanswered_is_told(protocol: str) -> None:
    with hangs_up() as port:
        event = first_event(port=port, protocol=protocol)
    assert (event.broken, event.reason) == (Broken.NOT_ANSWERED, f"no answer to a CONNECT of MQTT {protocol}")


class Thread:
    def is_alive(self) -> bool:
        return True


def test_a_network_thread_that_lives_and_does_nothing_is_not_at_work() -> None:
    link = MqttLink("c", MqttConfig.model_validate({"host": "127.0.0.1"}), lambda _: None)
    client: Any = link._client
    assert not link.is_at_work
    client._thread = Thread()
    client._last_msg_out = time.monotonic() - NETWORK_SILENCE_S - 1
    # Between two connections nothing is sent.
    assert link.is_at_work
    link.is_connected = True
    assert not link.is_at_work
    client._last_msg_out = time.monotonic() - 2 * KEEPALIVE_S
    assert link.is_at_work
    client._thread = None


def test_what_the_system_says_of_tls_is_put_in_plainconnection_fault() -> None:
    client, server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server.write(b"HTTP/1.0 400\r\n")
    connection = ssl.create_default_context().wrap_bio(server, client, server_hostname="localhost")
    with pytest.raises(ssl.SSLError) as caught:
        connection.do_handshake()
    assert connection_fault(caught.value).startswith("TLS: ")
    assert "_ssl.c" not in connection_fault(caught.value)
    assert connection_fault(TimeoutError("timed out")) == "timed out"


@pytest.mark.usefixtures("require_mosquitto")
def test_brokers_are_tried_in_turn_and_the_first_one_again_when_the_other_is_lost(
    tmp_path: Path, protocol: str
) -> None:
    port = free_port()
    events: queue.Queue[LinkEvent] = queue.Queue()
    # All of 127.0.0.0/8 is this machine; the broker listens at the last one only.
    config = MqttConfig.model_validate(
        {"host": ["127.0.0.3", "127.0.0.2", "127.0.0.1"], "port": port, "protocol": protocol}
    )
    link = MqttLink("c", config, events.put)
    with Mosquitto(tmp_path, port) as broker:
        link.start()
        try:
            heard = [events.get(timeout=30) for _ in range(3)]
            assert [getattr(event, "reason", None) for event in heard] == [
                "127.0.0.3: Connection refused", "127.0.0.2: Connection refused", None,
            ]  # fmt: skip
            assert link.broker == f"127.0.0.1:{port}"
            broker.stop()
            lost, again = [events.get(timeout=30) for _ in range(2)]
            assert isinstance(lost, Disconnected)
            assert lost.reason.startswith("127.0.0.1: ")
            assert isinstance(again, Disconnected)
            assert again.reason == "127.0.0.3: Connection refused"
            broker.start()
        finally:
            link.stop(1.0)


@pytest.mark.usefixtures("require_mosquitto")
@pytest.mark.expects_warning
# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_certificates_that_are_replaced_count_from_the_next_attempt_on_and_unreadable_ones_never(
    tmp_path: Path,
) -> None:
    ca_file = tmp_path / "ca.pem"
    for name, pem in (("ca.pem", OTHER_CERTIFICATE), ("server.pem", CERTIFICATE), ("server.key", KEY)):
        (tmp_path / name).write_text(pem, encoding="utf-8")
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    events: queue.Queue[LinkEvent] = queue.Queue()
    port = free_port()
    tls = f"certfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key\nuser {getpass.getuser()}\n"
    with Mosquitto(tmp_path, port, tls):
        config = {"host": "localhost", "port": port, "tls": {"ca_file": ca_file}}
        link = MqttLink("c", MqttConfig.model_validate(config), events.put)
        link.start()
        try:
            for text in (None, "no certificate", CERTIFICATE):
                if text is not None:
                    ca_file.write_text(text, encoding="utf-8")
                event = events.get(timeout=30)
                # An attempt may have begun before the file was changed.
                while text == CERTIFICATE and isinstance(event, Disconnected):
                    event = events.get(timeout=30)
                assert isinstance(event, Connected if text == CERTIFICATE else Disconnected)
        finally:
            link.stop(1.0)


@pytest.mark.expects_warning
def test_what_a_broker_closes_connections_on_is_dropped_and_what_a_network_cut_off_is_not() -> None:
    link = MqttLink("c", MqttConfig.model_validate({}), lambda _: None)
    # They wait for a connection.
    numbers = [link.publish(Publication(topic="r/1", payload=b"x" * size)) for size in (20_000, 500)]

    def broken(after_s: float) -> None:
        link.is_connected, link.outbox._connected_at = True, time.monotonic() - after_s
        assert link.outbox.take_confirmed() == []
        link._on_disconnect(link._client, None, None, ReasonCode(PacketTypes.DISCONNECT, "Unspecified error"), None)

    for _ in range(POISON_AFTER):
        link.outbox.connection_is_tried()
        assert len(link._client._out_messages) == 2
        broken(0.0)
    link.outbox.connection_is_tried()
    assert (len(link._client._out_messages), len(link.outbox)) == (1, 2)
    # It lasts, and what was set aside is sent again: under a number that its sender does not know.
    for turn in range(BREAKS):
        broken((turn + 1) * (SHORT_CONNECTION_S + 1))
        assert len(link._client._out_messages) == 2
        again = list(link._client._out_messages)[-1]
        link.outbox.connection_is_tried()
    assert link.outbox.take_refused() == [numbers[0]]
    assert not link.outbox.takes(Publication(topic="r/1", payload=b"x" * 19_999, correlation=b"c"))
    assert link.outbox.takes(Publication(topic="r/1", payload=b"x" * 500))
    assert link.outbox.takes(Publication(topic="r/2", payload=b"x" * 20_000))
    assert again not in numbers
    assert (len(link.outbox), link.outbox.dropped) == (1, 1)


@pytest.mark.expects_warning
def test_a_subscription_or_message_that_the_broker_refuses_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    link = MqttLink("c", MqttConfig(), lambda _event: None)
    link._asked = {1: "a/#", 2: "b/#"}
    for number, reason in ((1, "Granted QoS 1"), (2, "Not authorized")):
        link._on_subscribe(link._client, None, number, [ReasonCode(PacketTypes.SUBACK, reason)], None)
    assert link.subscribed == {"a/#": None, "b/#": "Not authorized"}
    assert "subscription refused client=c topic='b/#' reason=Not authorized" in caplog.text
    link._on_publish(link._client, None, 3, ReasonCode(PacketTypes.PUBACK, "Not authorized"), None)
    assert list(link.refusals) == ["Not authorized"]
    for number, reason in ((4, "Quota exceeded"), (5, "Payload format invalid"), (6, "No matching subscribers")):
        link._on_publish(link._client, None, number, ReasonCode(PacketTypes.PUBACK, reason), None)
    box = link.outbox
    assert (box.take_forbidden(), box.take_postponed(), box.take_refused(), box.take_confirmed()) == (
        [3],
        [4],
        [5],
        [6],
    )
    link.set_subscriptions({"a/#", "b/#"})
    assert link.unheard == ["b/#"]


def test_what_was_set_aside_is_sent_when_the_agent_ends() -> None:
    link = MqttLink("c", MqttConfig(), lambda _event: None)
    link.outbox._poison._aside = {-1: Publication(topic="state", payload=b"stopped", retain=True)}
    link.outbox.connection_made(None)
    link.is_connected = True
    link.stop(0.0)
    ((number, waiting),) = link._client._out_messages.items()
    assert (waiting.topic, waiting.payload, waiting.retain) == ("state", b"stopped", True)
    link.outbox.confirmed(number)
    assert link.outbox.take_confirmed() == [-1]


@pytest.mark.expects_warning
@pytest.mark.parametrize("nbytes", [2998, 3001])
def test_what_waits_for_a_broker_that_takes_less_is_taken_out_before_it_is_sent(nbytes: int) -> None:
    link = MqttLink("c", MqttConfig(), lambda _event: None)
    sample = Publication(topic="r", payload=b"", content_type="application/json", correlation=b"c" * 500)
    number = link.publish(sample)
    (waiting,) = link._client._out_messages.values()
    assert waiting.properties
    length = len("r") + 2 + 2 + len(waiting.properties.pack())  # type: ignore[no-untyped-call]
    header = 1 + 2
    payload = b"x" * (nbytes - length - header)
    long = link.publish(replace(sample, payload=payload))
    properties = SimpleNamespace(MaximumPacketSize=3000)
    link._on_connect(link._client, None, None, ReasonCode(PacketTypes.CONNACK, "Success"), properties)
    assert link.outbox.take_refused() == ([] if nbytes < 3000 else [long])
    assert number in link._client._out_messages
    assert len(link.outbox) == (2 if nbytes < 3000 else 1)
