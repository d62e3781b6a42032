import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pika import ConnectionParameters
from pika.adapters.utils.connection_workflow import AMQPConnectorSocketConnectError
from pika.exceptions import (
    AMQPConnectionError,
    AMQPHeartbeatTimeout,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    StreamLostError,
)

from edge_agent.pool import amqp
from edge_agent.pool.amqp import PoolError
from edge_agent.pool.facts import QueueFigures
from edge_agent.pool.queues import PoolQueues, queues_of, read_figures
from tests.helpers.certificates import CERTIFICATE, KEY
from tests.helpers.processes import free_port
from tests.helpers.rabbit import QUEUE, REFUSED, FakeBroker, fake_broker
from tests.helpers.support import config
from tests.mqtt.test_link import hangs_up

POOL = '[pool]\nname = "pumps"\n'


LOGIN = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."
NO_HOST = "NOT_ALLOWED - vhost x not found"
NO_QUEUE = f"NOT_FOUND - no queue '{QUEUE}' in vhost '/'"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AMQPConnectionError(AMQPConnectorSocketConnectError(REFUSED)), "Connection refused"),
        (AMQPConnectionError(AMQPConnectorSocketConnectError(TimeoutError("attempt timed out"))), "attempt timed out"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        # pika makes the text of these from the broker's error.
        (ProbableAuthenticationError(repr(ConnectionClosedByBroker(403, LOGIN))), LOGIN),
        (ProbableAccessDeniedError(repr(ConnectionClosedByBroker(530, NO_HOST))), NO_HOST),
        (ChannelClosedByBroker(404, NO_QUEUE), NO_QUEUE),
        (ConnectionClosedByBroker(320, "CONNECTION_FORCED - bye"), "CONNECTION_FORCED - bye"),
        (StreamLostError("Stream connection lost: x"), "Stream connection lost: x"),
        (AMQPHeartbeatTimeout("No activity or too many missed"), "No activity or too many missed"),
        (ConnectionError("the pool's queue is gone"), "the pool's queue is gone"),
        # The error has no words.
        (AMQPConnectionError(), "AMQPConnectionError"),
    ],
)
def test_a_fault_is_told_in_the_words_of_broker_or_system(error: Exception, words: str) -> None:
    assert amqp.fault_text(error).endswith(words)
    assert ("Error" in amqp.fault_text(error)) == (words == "AMQPConnectionError")


def told(port: int, more: str = "") -> str:
    """What a real attempt fails with."""
    settings = config(f'[mqtt]\nhost = "127.0.0.1"\n{more}{POOL}port = {port}\n')
    with pytest.raises(PoolError) as caught, amqp.channel_at_first_host(settings):
        pass
    where, _, words = str(caught.value).partition(f"127.0.0.1:{port}: ")
    assert where == ""
    return words


def test_a_broker_that_is_not_there_refuses_the_connection() -> None:
    assert told(free_port()) == "Connection refused"


def test_a_listener_that_hangs_up_speaks_no_amqp() -> None:
    with hangs_up() as port:
        assert told(port) == "it closes the connection: there is no listener for AMQP, or only one with TLS"


def test_a_listener_that_says_nothing_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amqp, "CONNECT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert told(listener.getsockname()[1]) == "no answer in AMQP"


@contextmanager
def answers(first: bytes | ssl.SSLContext) -> Iterator[int]:
    """The port of a server that sends these bytes to one client, or greets it by TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096) if isinstance(first, bytes) else None
                try:
                    if isinstance(first, bytes):
                        connection.sendall(first)
                    else:
                        first.wrap_socket(connection, server_side=True).close()
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_tls_to_a_listener_without_it_fails_with_the_word_tls() -> None:
    with answers(b"AMQP\x00\x00\x09\x01") as port:
        assert told(port, "[mqtt.tls]\n").startswith("TLS: ")


def test_a_certificate_that_cannot_be_verified_is_named(tmp_path: Path) -> None:
    (tmp_path / "server.pem").write_text(CERTIFICATE + KEY, encoding="ascii")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with answers(context) as port:
        assert told(port, "[mqtt.tls]\n").startswith("certificate verify failed: ")


def parameters(monkeypatch: pytest.MonkeyPatch, text: str = "", more: str = "", **account: Any) -> ConnectionParameters:
    """What pika is asked for."""
    asked: list[ConnectionParameters] = []
    monkeypatch.setattr(amqp, "BlockingConnection", asked.append)
    amqp.connect(config(text + POOL + more), "broker", **account)
    return asked[0]


def test_a_board_without_a_user_connects_as_guest_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    given = parameters(monkeypatch)
    assert (given.host, given.port, given.virtual_host, given.ssl_options) == ("broker", 5672, "/", None)
    assert (given.credentials.username, given.credentials.password) == ("guest", "guest")
    assert given.client_properties == {"connection_name": "hall1.board1.pool"}
    assert given.heartbeat == amqp.HEARTBEAT_S
    assert logging.getLogger("pika").level == logging.CRITICAL


def test_a_board_connects_with_the_account_of_mqtt_or_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("secret\n", encoding="ascii")
    mqtt = f'[mqtt]\nusername = "board1"\npassword_file = "{tmp_path}/password"\n'
    given = parameters(monkeypatch, mqtt).credentials
    assert (given.username, given.password) == ("board1", "secret")
    given = parameters(monkeypatch, mqtt, account=("admin", "other")).credentials
    assert (given.username, given.password) == ("admin", "other")


def test_the_port_is_configured_and_the_certificate_is_verified_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    given = parameters(monkeypatch, more='port = 7\nvirtual_host = "hall1"\n')
    assert (given.port, given.virtual_host) == (7, "hall1")
    given = parameters(monkeypatch, "[mqtt.tls]\n")
    assert (given.port, given.ssl_options.server_hostname) == (5671, "broker")
    assert given.ssl_options.context.check_hostname
    assert given.ssl_options.context.verify_mode is ssl.CERT_REQUIRED


TWO_HOSTS = f'[mqtt]\nhost = ["one", "two"]\n{POOL}'


class TestFirstHost:
    """The tools reach the queues by the first host that accepts the board."""

    @pytest.fixture
    def broker(self, monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
        return fake_broker(monkeypatch)

    def test_a_host_that_is_down_is_passed_over(self, broker: FakeBroker) -> None:
        broker.refusals["one"] = REFUSED
        with amqp.channel_at_first_host(config(TWO_HOSTS)) as (channel, where):
            assert read_figures(channel, PoolQueues("edgeai/v1/hall1/pool/pumps")) == QueueFigures(0, 0, 0)
        assert (where, broker.attempts) == ("two:5672", ["one", "two"])
        assert not broker.connection.is_open

    def test_each_host_that_is_down_is_named(self, broker: FakeBroker) -> None:
        broker.refusals |= {"one": REFUSED, "two": TimeoutError("timed out")}
        with pytest.raises(PoolError) as caught, amqp.channel_at_first_host(config(TWO_HOSTS)):
            pass
        assert str(caught.value) == "one:5672: Connection refused; two:5672: timed out"

    def test_a_queue_that_is_missing_is_missing_at_the_other_hosts_too(self, broker: FakeBroker) -> None:
        broker.queues.clear()
        with pytest.raises(PoolError) as caught, amqp.channel_at_first_host(config(TWO_HOSTS)) as (channel, _):
            read_figures(channel, queues_of(config(POOL)))
        assert str(caught.value) == f"one:5672: {NO_QUEUE}"
        assert (broker.attempts, broker.connection.is_open) == (["one"], False)

    def test_a_connection_that_is_lost_meanwhile_is_told_with_its_reason(self, broker: FakeBroker) -> None:
        with pytest.raises(PoolError) as caught, amqp.channel_at_first_host(config(TWO_HOSTS)):
            raise ConnectionClosedByBroker(320, "CONNECTION_FORCED - bye")
        assert str(caught.value) == "one:5672: CONNECTION_FORCED - bye"
        assert broker.attempts == ["one"]
