"""The agent's two connections with several brokers, and over several configurations."""

import queue
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.config import Config
from edge_agent.core.messages import Publication
from edge_agent.mqtt import link as mqtt_link
from edge_agent.mqtt.connections import (
    DATA_LOST_AFTER_S,
    REFUSED_WINDOW_S,
    SUBSCRIPTIONS_FILE,
    UNSTABLE_WINDOW_S,
    Connections,
)
from edge_agent.mqtt.link import Connected, ConnectionFailed, LinkEvent
from tests.helpers.processes import Mosquitto, free_port, wait_until
from tests.helpers.support import config

pytestmark = pytest.mark.expects_warning

FIRST, SECOND = "127.0.0.1", "127.0.0.2"


@pytest.mark.usefixtures("require_mosquitto")
def test_the_data_connection_follows_the_control_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_link, "BACK_OFF_S", (0.1, 0.4))
    port = free_port()
    for address in (FIRST, SECOND):
        (tmp_path / address).mkdir()
    first, second = (Mosquitto(tmp_path / address, port, address=address) for address in (FIRST, SECOND))
    mqtt = {"host": [FIRST, SECOND], "port": port}
    settings = Config.model_validate({**config().model_dump(exclude_unset=True), "mqtt": mqtt})
    events: queue.Queue[LinkEvent] = queue.Queue()
    connections = Connections(settings, events.put, lambda: Publication(topic="a", payload=b"gone", qos=1), 0.0)
    links = (connections.control, connections.data)

    def are_at(host: str) -> bool:
        """Does what the agent does; true once both are connected there."""
        while not events.empty():
            event = events.get()
            if isinstance(event, Connected):
                connections.on_connected(event.link, 1.0)
            elif isinstance(event, ConnectionFailed):
                connections.on_connection_failed(event, 1.0)
        return [link.host if link.is_connected else None for link in links] == [host, host]

    with second:
        connections.start()
        wait_until(lambda: are_at(SECOND), "both are at the second")
        with first:
            # Only this one breaks, and comes back to the first broker, which is there again.
            connections.control.reconnect()
            wait_until(lambda: are_at(FIRST), "both are at the first")
    for link in links:
        link.stop(1.0)
        link._client._reset_sockets()  # paho leaves these to the garbage collector


def filters_to_end(folder: Path, *wanted: str) -> frozenset[str]:
    """What a process that wants these filters, and no others, unsubscribes from."""
    tasks = "".join(f"[tasks.t{n}]\nkind = 'generate'\nsubscribe = ['{one}']\n" for n, one in enumerate(wanted))
    settings = config(tasks).model_copy(update={"state_dir": folder})
    connections = Connections(settings, lambda _: None, lambda: Publication(topic="a", payload=b""), 0.0)
    connections.subscribe(settings)
    return connections.data.subscriptions.former


def test_a_process_unsubscribes_from_what_earlier_ones_wanted(tmp_path: Path) -> None:
    assert filters_to_end(tmp_path / "state", "a", "b/+") == set()
    assert filters_to_end(tmp_path / "state", "a", "c/#") == {"b/+"}
    assert filters_to_end(tmp_path / "state", "b/+") == {"a", "c/#"}


@pytest.mark.parametrize("content", [b"", b"\xff", b"5"])
def test_a_file_that_holds_no_filters_costs_nothing_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SUBSCRIPTIONS_FILE).write_bytes(content)
    assert filters_to_end(tmp_path, "a") == set()
    assert filters_to_end(tmp_path, "b") == {"a"}


@pytest.mark.expects_warning
def test_a_connection_on_which_nothing_is_confirmed_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections(config(), lambda _: None, lambda: Publication(topic="a", payload=b""), 0.0)
    reconnected = list[str]()
    for link in (connections.control, connections.data):
        monkeypatch.setattr(link.outbox, "is_newly_stuck", lambda: True)
        monkeypatch.setattr(link, "reconnect", lambda link=link: reconnected.append(link.client_id))
    connections.reconnect_stuck()
    connections.data.is_connected = True
    connections.reconnect_stuck()
    assert reconnected == [connections.data.client_id]


def test_reasons_of_health_are_lost_unstable_and_refused_connections() -> None:
    connections = Connections(config(), lambda _: None, lambda: Publication(topic="a", payload=b""), 0.0)
    data = connections.data

    def holds(now: float) -> set[str]:
        return {name for name, is_so in connections.reasons(now).items() if is_so}

    assert holds(DATA_LOST_AFTER_S - 0.1) == set()
    assert holds(DATA_LOST_AFTER_S) == {"data-connection-lost"}
    # The broker is back, and the data connection has the same time to follow.
    connections.on_connected(connections.control, 15.0)
    assert holds(15.0 + DATA_LOST_AFTER_S - 0.1) == set()
    assert holds(15.0 + DATA_LOST_AFTER_S) == {"data-connection-lost"}
    connections.on_connected(data, 20.0)
    data.disconnects.extend((20.0, 21.0))
    connections.control.disconnects.append(22.0)
    assert holds(22.0) == {"connection-unstable"}
    assert holds(20.0 + UNSTABLE_WINDOW_S) == set()
    data.outbox.refusals.append((100.0, ""))
    data.subscriptions.wanted = frozenset({"a/#"})
    data.subscriptions.answers["a/#"] = "not authorized"
    assert holds(100.0) == {"publishing-refused", "subscription-refused"}
    assert holds(100.0 + REFUSED_WINDOW_S) == {"subscription-refused"}


@pytest.mark.parametrize(("pool", "delay_s"), [("", mqtt_link.WILL_DELAY_S), ('[pool]\nname = "pumps"\n', 0)])
def test_the_will_of_a_board_in_a_pool_comes_at_once(pool: str, delay_s: int) -> None:
    """RabbitMQ retains no will that it delays."""
    will = Publication(topic="a", payload=b"gone", qos=1)
    connections = Connections(config(pool), lambda _: None, lambda: will, 0.0)
    control = connections.control
    control._on_pre_connect(control._client, None)
    properties: Any = control._client._will_properties
    # A delay of 0 makes RabbitMQ's retained will unreadable at MQTT 5.
    assert getattr(properties, "WillDelayInterval", 0) == delay_s
    assert hasattr(properties, "WillDelayInterval") == bool(delay_s)
