"""What `watch` does where the broker keeps retained messages from subscriptions with wildcards, as RabbitMQ does."""

import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from edge_agent.core.config import MqttConfig
from edge_agent.core.messages import Message
from edge_agent.mqtt.subscriptions import Subscriptions
from edge_agent.tools.watch import watch
from edge_agent.tools.watch.watch import Feed
from tests.tools.watch import boards

BASE = "edgeai/v1/hall1/press-04"


class Broker:
    """Stands in for the connection. `messages` are what it brings next."""

    def __init__(self, feed: Feed) -> None:
        self.subscribed: list[str] = []
        self.messages: list[Message] = []
        subscriptions = Subscriptions(self.subscribed.append, lambda _: None)
        subscriptions.on_connected()
        self.connections, self.is_connected, self.reason = 1, True, ""
        self.link = SimpleNamespace(subscriptions=subscriptions, broker="b:1883", heard_at=time.monotonic())
        feed.client = self  # type: ignore[assignment]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, timeout_s: float) -> None:
        pass

    def receive(self, timeout_s: float) -> Message | None:
        if self.messages:
            return self.messages.pop(0)
        time.sleep(timeout_s)
        return None


def said(topic: str, payload: bytes, *, is_retained: bool) -> Message:
    now = time.monotonic()
    return Message(
        topic=f"{BASE}/{topic}", payload=payload, qos=1, packet_id=1, is_retained=is_retained, received_at=now
    )


def feed_with(*messages: Message, expected: Sequence[str] = ()) -> tuple[Feed, Broker]:
    feed = Feed(MqttConfig(), "hall1", expected=expected)
    broker = Broker(feed)
    broker.messages += messages
    feed.receive(0.01)
    return feed, broker


def test_a_board_that_is_heard_is_asked_for_by_name_and_the_others_are_said_to_be_missing() -> None:
    feed, broker = feed_with(said("health", boards.health(at=time.time()), is_retained=False))
    assert {f"{BASE}/state", f"{BASE}/info"} <= {*broker.subscribed}
    assert "RabbitMQ" in str(feed.hint)
    broker.messages.append(said("state", boards.state(), is_retained=True))
    feed.receive(0.01)
    assert [row.level.name for row in feed.rows] == ["OK"]
    assert "RabbitMQ" in str(feed.hint)


def test_a_broker_that_has_sent_retained_messages_before_is_not_taken_for_rabbitmq() -> None:
    feed, broker = feed_with(said("state", boards.state(), is_retained=True))
    broker.connections = 2
    broker.messages.append(said("health", boards.health(at=time.time()), is_retained=False))
    feed.receive(0.01)
    assert [row.device for row in feed.rows] == ["press-04"]
    assert feed.hint is None


def test_a_broker_that_brings_retained_messages_is_asked_for_nothing_more() -> None:
    feed, broker = feed_with(said("state", boards.state(), is_retained=True))
    assert not any(BASE in topic for topic in broker.subscribed)
    assert feed.hint is None


def test_a_board_that_is_new_to_a_broker_that_retains_is_found_to_be_retained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_AGAIN_S", 0.0)
    feed, broker = feed_with(said("state", boards.state(), is_retained=False))
    broker.messages.append(said("state", boards.state(), is_retained=True))
    feed.receive(0.01)
    assert broker.subscribed[-1] == "edgeai/v1/hall1/+/state"
    assert "RabbitMQ" in str(feed.hint)
    broker.messages.append(said("state", boards.state(), is_retained=True))
    feed.receive(0.01)
    assert feed.hint is None


def test_an_expected_board_that_starts_after_its_broker_is_found_to_be_retained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "ASK_AGAIN_S", 0.0)
    feed, broker = feed_with(expected=["press-04"])
    feed.receive(0.01)
    asked = broker.subscribed.count(every := "edgeai/v1/hall1/+/state")
    broker.messages.append(said("state", boards.state(), is_retained=False))
    feed.receive(0.01)
    assert broker.subscribed.count(every) == asked + 1
    broker.messages.append(said("state", boards.state(), is_retained=True))
    feed.receive(0.01)
    assert feed.hint is None
    broker.messages.append(said("state", boards.state(), is_retained=False))
    feed.receive(0.01)
    assert broker.subscribed.count(every) == asked + 1


def test_an_empty_site_names_this_among_the_causes() -> None:
    feed, _ = feed_with()
    assert "RabbitMQ" in feed.no_boards_text


def test_boards_keep_their_levels_while_the_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    health = said("health", boards.health(at=time.time()), is_retained=False)
    feed, broker = feed_with(said("state", boards.state(), is_retained=True), health)
    assert [row.level.name for row in feed.rows] == ["OK"]
    broker.messages.append(said("state", boards.will(), is_retained=False))
    feed.receive(0.01)
    broker.is_connected, broker.reason = False, "Connection refused"
    feed.receive(0.01)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 600)
    assert [row.level.name for row in feed.rows] == ["OK"]
    assert "for 10 min: Connection refused: check the broker; the boards are shown as they were" in str(feed.trouble)


def test_a_snapshot_waits_for_boards_that_are_lost_only_because_the_broker_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "QUIET_S", 0.1)
    feed, broker = feed_with(said("state", boards.will(), is_retained=True))
    assert [row.level.name for row in feed.rows] == ["OFFLINE"]
    back = boards.health(at=time.time(), mqtt__connected_s=0.0)
    messages = [said(*each, is_retained=False) for each in (("state", boards.state()), ("health", back))]
    threading.Timer(0.5, broker.messages.extend, [messages]).start()
    assert watch._print_once(feed, 5.0, None) == 0
    # It is gone for good.
    monkeypatch.setattr(watch, "BACK_S", 0.5)
    feed, _ = feed_with(said("state", boards.will(), is_retained=True))
    assert watch._print_once(feed, 5.0, None) == watch.EXIT_URGENT
