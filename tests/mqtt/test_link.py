import getpass
import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Publication
from edge_agent.mqtt import link as module
from edge_agent.mqtt.link import (
    KEEPALIVE_S,
    NETWORK_SILENCE_S,
    Connected,
    ConnectionFailed,
    FailedAt,
    LinkEvent,
    MqttLink,
    Published,
)
from edge_agent.mqtt.outbox import PublishResult
from tests.helpers.certificates import CERTIFICATE, KEY, OTHER_CERTIFICATE
from tests.helpers.processes import Mosquitto, free_port, wait_until


@contextmanager
def hangs_up() -> Iterator[int]:
    """The port of a server that reads what a client says first, and closes the connection."""
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


@contextmanager
def started(**fields: Any) -> Iterator[tuple[MqttLink, queue.Queue[LinkEvent]]]:
    """A link of this configuration, and what comes of it."""
    events: queue.Queue[LinkEvent] = queue.Queue()
    link = MqttLink("c", MqttConfig.model_validate({"host": "127.0.0.1", **fields}), events.put)
    link.start()
    try:
        yield link, events
    finally:
        link.stop(1.0)


def first_event(**fields: Any) -> ConnectionFailed:
    with started(**fields) as (_, events):
        event = events.get(timeout=20)
    assert isinstance(event, ConnectionFailed)
    return event


def test_a_broker_that_is_not_there_is_told_in_the_words_of_the_system() -> None:
    event = first_event(port=free_port())
    assert (event.failed_at, event.reason) == (FailedAt.NOT_REACHED, "Connection refused")


def test_a_broker_that_closes_the_connection_unanswered_is_told(protocol: str) -> None:
    with hangs_up() as port:
        event = first_event(port=port, protocol=protocol)
    assert (event.failed_at, event.reason) == (FailedAt.NOT_ANSWERED, f"no answer to an MQTT {protocol} CONNECT")


def test_a_network_thread_that_lives_and_does_nothing_is_not_at_work() -> None:
    link = MqttLink("c", MqttConfig.model_validate({"host": "127.0.0.1"}), lambda _: None)
    client: Any = link._client
    assert not link.is_network_thread_alive
    client._thread = SimpleNamespace(is_alive=lambda: True)
    client._last_msg_out = time.monotonic() - NETWORK_SILENCE_S - 1
    # Between two connections nothing is sent.
    assert link.is_network_thread_alive
    link.is_connected = True
    assert not link.is_network_thread_alive
    client._last_msg_out = time.monotonic() - 2 * KEEPALIVE_S
    assert link.is_network_thread_alive
    client._thread = None


@pytest.mark.usefixtures("require_mosquitto")
def test_nothing_waits_for_tcps_acknowledgements_and_the_brokers_own_are_heard(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, free_port()) as broker, started(port=broker.port) as (link, events):
        assert isinstance(events.get(timeout=30), Connected)
        connection: Any = link._client.socket()
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        # A client that keeps sending sends no pings.
        before = link.heard_at
        link.publish(Publication(topic="t", payload=b"x"))
        wait_until(lambda: link.heard_at > before, "the broker is heard")


def test_a_stopped_link_has_no_open_sockets() -> None:
    def sockets() -> int:
        return len(psutil.Process().net_connections("tcp"))

    before = sockets()
    with started(port=free_port()) as (link, _):
        assert sockets() > before
    assert sockets() == before
    assert not link.is_network_thread_alive


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACK_OFF_S", (0.1, 0.4))


@pytest.mark.usefixtures("require_mosquitto", "quickly")
def test_brokers_are_tried_in_turn_and_the_first_again_when_the_other_is_lost(tmp_path: Path, protocol: str) -> None:
    port = free_port()
    # All of 127.0.0.0/8 is this machine; the broker listens at the last one only.
    hosts = ["127.0.0.3", "127.0.0.2", "127.0.0.1"]
    with Mosquitto(tmp_path, port) as broker, started(host=hosts, port=port, protocol=protocol) as (link, events):
        heard = [events.get(timeout=30) for _ in range(3)]
        assert [getattr(event, "reason", None) for event in heard] == [
            "127.0.0.3: Connection refused", "127.0.0.2: Connection refused", None,
        ]  # fmt: skip
        assert link.broker == f"127.0.0.1:{port}"
        broker.stop()
        lost, again = [events.get(timeout=30) for _ in range(2)]
        assert isinstance(lost, ConnectionFailed)
        assert lost.reason.startswith("127.0.0.1: ")
        assert isinstance(again, ConnectionFailed)
        assert again.reason == "127.0.0.3: Connection refused"
        broker.start()


@pytest.mark.usefixtures("require_mosquitto", "quickly")
@pytest.mark.expects_warning
# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_replaced_certificates_count_from_the_next_attempt_on_and_unreadable_ones_never(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    for name, pem in (("ca.pem", OTHER_CERTIFICATE), ("server.pem", CERTIFICATE), ("server.key", KEY)):
        (tmp_path / name).write_text(pem, encoding="utf-8")
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    port = free_port()
    files = f"certfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key\nuser {getpass.getuser()}\n"
    tls = {"ca_file": ca_file}
    with Mosquitto(tmp_path, port, files), started(host="localhost", port=port, tls=tls) as (_, events):
        for text in (None, "no certificate", CERTIFICATE):
            if text is not None:
                ca_file.write_text(text, encoding="utf-8")
            event = events.get(timeout=30)
            # An attempt may have begun before the file was changed.
            while text == CERTIFICATE and isinstance(event, ConnectionFailed):
                event = events.get(timeout=30)
            assert isinstance(event, Connected if text == CERTIFICATE else ConnectionFailed)


def connected(link: MqttLink, **told: Any) -> None:
    """Connects as paho does, which first chooses what it is about to send."""
    link._client._messages_reconnect_reset_out()
    link._on_pre_connect(link._client, None)
    connack = SimpleNamespace(json=lambda: told)
    link._on_connect(link._client, None, None, ReasonCode(PacketTypes.CONNACK, "Success"), connack)


@pytest.mark.expects_warning
def test_a_subscription_or_message_that_the_broker_refuses_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    link = MqttLink("c", MqttConfig(), lambda _event: None)
    link.subscriptions._subscribing = {1: "a/#", 2: "b/#"}
    for number, reason in ((1, "Granted QoS 1"), (2, "Not authorized")):
        link._on_subscribe(link._client, None, number, [ReasonCode(PacketTypes.SUBACK, reason)], None)
    assert link.subscriptions.answers == {"a/#": None, "b/#": "Not authorized"}
    assert "subscription refused topic='b/#' reason=Not authorized" in caplog.text
    box = link.outbox
    numbers = []
    for reason in ("Not authorized", "Quota exceeded", "Payload format invalid", "No matching subscribers"):
        link._client._out_messages.clear()
        numbers.append(link.publish(Publication(topic="r", payload=b"")))
        (key,) = link._client._out_messages
        link._on_publish(link._client, None, key, ReasonCode(PacketTypes.PUBACK, reason), None)
    results = (PublishResult.FORBIDDEN, PublishResult.POSTPONED, PublishResult.UNSENDABLE, PublishResult.CONFIRMED)
    assert box.take_results() == [*zip(numbers, results, strict=True)]
    assert [words for _, words in box.refusals] == ["Not authorized", "Payload format invalid"]
    link.subscriptions.replace({"a/#", "b/#"})
    assert link.subscriptions.refused == ["b/#"]


@pytest.mark.expects_warning
@pytest.mark.parametrize("reports_published", [False, True])
@pytest.mark.parametrize("reason", ["Success", "Quota exceeded"])
def test_a_result_of_the_outbox_is_an_event_only_for_who_wants_it(reason: str, *, reports_published: bool) -> None:
    events: list[LinkEvent] = []
    results: list[int] = []
    link: MqttLink

    def deliver(event: LinkEvent) -> None:
        events.append(event)
        # Whoever hears of it finds the result.
        results.append(len(link.outbox.take_results()))

    link = MqttLink("c", MqttConfig(), deliver, reports_published=reports_published)
    link.publish(Publication(topic="r", payload=b""))
    (number,) = link._client._out_messages
    link._on_publish(link._client, None, number, ReasonCode(PacketTypes.PUBACK, reason), None)
    assert events == ([Published()] if reports_published else [])
    assert results == ([1] if reports_published else [])


@pytest.mark.expects_warning
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("nbytes", [2996, 3000, 3001])
def test_a_packet_is_as_long_as_it_is_thought_to_be_at_most(nbytes: int, protocol: str) -> None:
    link = MqttLink("c", MqttConfig.model_validate({"protocol": protocol}), lambda _event: None)
    sample = Publication(topic="r", payload=b"", content_type="application/json", correlation=b"c" * 500)
    own = len("r") + 2 + 2 + 1 + 2  # a number, the topic's length, a header, the length of all in two bytes
    if protocol == "5":
        own += 2 + (1 + 2 + 500) + (1 + 2 + len("application/json"))
    link.publish(replace(sample, payload=b"x" * (nbytes - own)))
    connected(link, MaximumPacketSize=3000)
    assert len(link.outbox.take_results()) == (nbytes > 3000 - 2)
    assert len(link.outbox) == (nbytes <= 3000 - 2)
