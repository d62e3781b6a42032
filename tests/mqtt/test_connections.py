"""The agent's two connections, where there are several brokers: never at two of them for long."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.core.config import Config
from edge_agent.core.publications import Publication
from edge_agent.mqtt import connections as module
from edge_agent.mqtt import link as mqtt_link
from edge_agent.mqtt.connections import Connections
from edge_agent.mqtt.link_events import LinkEvent
from edge_agent.tools.demo.broker import free_port
from tests.helpers.processes import Mosquitto
from tests.helpers.support import config

pytestmark = [pytest.mark.usefixtures("require_mosquitto"), pytest.mark.expects_warning]

FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class Both:
    """Two brokers, of which none runs yet, and the connections of an agent that knows both."""

    def __init__(self, folder: Path, protocol: str, of_first: str = "") -> None:
        port = free_port()
        self.first, self.second = (
            Mosquitto(_made(folder / address), port, extra, address=address)
            for address, extra in ((FIRST, of_first), (SECOND, ""))
        )
        mqtt = {"host": [FIRST, SECOND], "port": port, "protocol": protocol}
        settings = Config.model_validate({**config().model_dump(exclude_unset=True), "mqtt": mqtt})
        self.events: queue.Queue[LinkEvent] = queue.Queue()
        will = Publication(topic="a", payload=b"gone", qos=1)
        self.connections = Connections(settings, self.events.put, lambda: will, time.monotonic())

    def stop(self) -> None:
        self.connections.data.stop(1.0)
        self.connections.control.stop(1.0)

    def wait_until_at(self, host: str) -> None:
        """Both are there; they are looked after meanwhile, as by the agent."""
        give_up_at = time.monotonic() + 30
        while self.where() != [host, host]:
            assert time.monotonic() < give_up_at, self.where()
            self.connections.tend(time.monotonic())
            time.sleep(0.02)

    def where(self) -> list[str | None]:
        links = (self.connections.control, self.connections.data)
        return [link.host if link.is_connected else None for link in links]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_link, "BACK_OFF_S", (0.1, 0.4))
    monkeypatch.setattr(module, "SETTLES_WITHIN_S", 0.3)
    monkeypatch.setattr(module, "LEAVES_AFTER_S", 2.0)


@pytest.fixture
def both(tmp_path: Path, protocol: str) -> Iterator[Both]:
    pair = Both(tmp_path, protocol)
    yield pair
    pair.stop()


def test_the_connection_of_requests_follows_the_one_that_tells_of_the_board(both: Both) -> None:
    with both.second:
        both.connections.start()
        both.wait_until_at(SECOND)
        with both.first:
            # Only one of them breaks, and comes back to the first broker, which is there again.
            both.connections.control.leave()
            both.wait_until_at(FIRST)


def test_a_broker_that_takes_only_one_is_left_for_the_next(tmp_path: Path, protocol: str) -> None:
    both = Both(tmp_path, protocol, "max_connections 1\n")
    with both.first, both.second:
        # mosquitto counts whoever has just looked whether it listens.
        time.sleep(0.2)
        both.connections.control.start()
        while both.where()[0] != FIRST:
            time.sleep(0.02)
        both.connections.data.start()
        time.sleep(0.5)
        assert both.where() == [FIRST, None]
        both.wait_until_at(SECOND)
        both.stop()


def test_with_one_broker_there_is_nothing_to_choose(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with Mosquitto(tmp_path / "one", free_port()) as broker:
        mqtt = {"host": FIRST, "port": broker.port}
        settings = Config.model_validate({**config().model_dump(exclude_unset=True), "mqtt": mqtt})
        one = Connections(settings, lambda _: None, lambda: Publication(topic="a", payload=b"", qos=0), 0.0)
        one.control.start()
        while not one.control.is_connected:
            time.sleep(0.02)
        one.tend(0.0)
        one.tend(1000.0)
        time.sleep(0.2)
        assert one.control.connects == 1
        assert one.control.is_connected
        one.control.stop(1.0)
