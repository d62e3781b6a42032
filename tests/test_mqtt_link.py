from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_agent.config import MqttConfig
from edge_agent.demo.broker import free_port
from edge_agent.mqtt_link import Broken, Disconnected, LinkEvent, MqttLink, _words


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


def test_what_the_system_says_of_tls_is_put_in_plain_words() -> None:
    client, server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server.write(b"HTTP/1.0 400\r\n")
    connection = ssl.create_default_context().wrap_bio(server, client, server_hostname="localhost")
    with pytest.raises(ssl.SSLError) as caught:
        connection.do_handshake()
    assert _words(caught.value).startswith("TLS: ")
    assert "_ssl.c" not in _words(caught.value)
    assert _words(TimeoutError("timed out")) == "timed out"
