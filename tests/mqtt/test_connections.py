"""The agent's two connections where there are several brokers."""

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
from edge_agent.mqtt.link_events import Connected, Disconnected, LinkEvent
from edge_agent.tools.demo.broker import free_port
from tests.helpers.processes import Mosquitto
from tests.helpers.support import config

pytestmark = [pytest.mark.usefixtures("require_mosquitto"), pytest.mark.expects_warning]

FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class Both:
    """Two brokers that do not run yet, and the connections of an agent that knows both."""

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
        """Both are connected there; until then it does what the agent does."""
        give_up_at = time.monotonic() + 30
        while self.where() != [host, host]:
            assert time.monotonic() < give_up_at, self.where()
            while not self.events.empty():
                event = self.events.get()
                if isinstance(event, Connected):
                    self.connections.on_connected(event.link, time.monotonic())
                elif isinstance(event, Disconnected):
                    self.connections.on_disconnected(event, time.monotonic())
            self.connections.maintain(time.monotonic())
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


@pytest.fixture
def both(tmp_path: Path, protocol: str) -> Iterator[Both]:
    pair = Both(tmp_path, protocol)
    yield pair
    pair.stop()


def test_the_data_connection_follows_the_control_connection(both: Both) -> None:
    with both.second:
        both.connections.start()
        both.wait_until_at(SECOND)
        with both.first:
            # Only this one breaks. It comes back to the first broker, which is there again.
            both.connections.control.break_off()
            both.wait_until_at(FIRST)
