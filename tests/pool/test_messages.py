import time
from types import SimpleNamespace
from typing import Any

import pytest
from pika import BasicProperties

from edge_agent.core.messages import Message
from edge_agent.pool.messages import death_of, deliveries_of, message_of, waited_s_of
from tests.helpers.rabbit import QUEUE


def message(key: str = f"{QUEUE}.infer.triage.request", **properties: Any) -> Any:
    return message_of(key, 7, BasicProperties(**properties), b"x", received_at=2.5)


def test_a_delivery_is_the_message_that_mqtt_would_have_brought() -> None:
    """tests/pool/test_link.py has one with all properties."""
    topic = "edgeai/v1/hall1/pool/pumps/infer/triage/request"
    plain = Message(topic=topic, payload=b"x", qos=1, packet_id=-7, received_at=2.5)
    assert message() == plain
    assert message(headers={"x-reply-to-topic": "edgeai.v1.reply.a/b"}).response_topic == "edgeai/v1/reply/a.b"


@pytest.mark.parametrize(
    ("properties", "correlation"),
    [
        ({"correlation_id": "é"}, "é".encode()),
        ({"correlation_id": ""}, b""),
        # RabbitMQ puts there what is not UTF-8, and what is longer than 255 bytes; pika makes text of UTF-8.
        ({"headers": {"x-correlation-id": b"\xff\x00"}}, b"\xff\x00"),
        ({"headers": {"x-correlation-id": "c" * 300}}, b"c" * 300),
        # Anybody may send a header as a user property.
        ({"correlation_id": "c", "headers": {"x-correlation-id": b"other"}}, b"c"),
    ],
)
def test_the_correlation_is_the_callers_bytes(properties: dict[str, Any], correlation: bytes) -> None:
    assert message(**properties).correlation == correlation


@pytest.mark.parametrize(("expiration", "expiry_s"), [("0", 0), ("1", 1), ("1000", 1), ("1001", 2), ("x", None)])
def test_what_is_left_of_a_second_counts_as_one(expiration: str, expiry_s: int | None) -> None:
    assert message(expiration=expiration).expiry_s == expiry_s


def test_headers_of_another_type_are_ignored() -> None:
    received = message(headers={"x-reply-to-topic": 5, "x-correlation-id": [1]}, expiration="-1")
    assert (received.response_topic, received.correlation, received.expiry_s) == (None, None, None)


@pytest.mark.parametrize(
    ("headers", "redelivered", "deliveries"),
    [
        (None, False, 1),
        ({}, False, 1),
        ({"x-delivery-count": 2}, True, 3),
        ({"x-delivery-count": "2"}, False, 1),
        # RabbitMQ from 4.3 on counts fewer of them.
        ({}, True, 2),
    ],
)
def test_this_delivery_counts_too(headers: dict[str, Any] | None, redelivered: Any, deliveries: int) -> None:
    delivery: Any = SimpleNamespace(redelivered=redelivered)
    assert deliveries_of(delivery, BasicProperties(headers=headers)) == deliveries


class TestWaited:
    """How long a request waited at the broker, by its stamp."""

    NOW = 1_800_000_000.0

    @pytest.fixture(autouse=True)
    def at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "time", lambda: self.NOW)

    def test_it_is_the_time_since_the_stamp(self) -> None:
        stamp = BasicProperties(headers={"timestamp_in_ms": int(self.NOW * 1000) - 250})
        assert waited_s_of(stamp) == pytest.approx(0.25)

    @pytest.mark.parametrize("headers", [None, {}, {"timestamp_in_ms": "1"}])
    def test_it_is_unknown_without_a_stamp(self, headers: dict[str, Any] | None) -> None:
        assert waited_s_of(BasicProperties(headers=headers)) is None

    def test_a_stamp_of_a_clock_that_is_ahead_is_no_negative_time(self) -> None:
        assert waited_s_of(BasicProperties(headers={"timestamp_in_ms": int(self.NOW * 1000) + 9000})) == 0.0

    def test_it_is_unknown_while_the_boards_clock_is_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "time", lambda: 100.0)
        assert waited_s_of(BasicProperties(headers={"timestamp_in_ms": 50_000})) is None


@pytest.mark.parametrize(
    ("headers", "death"),
    [
        (
            # As RabbitMQ 4.0 sends it; the last death comes first.
            {
                "x-death": [
                    {"count": 1, "reason": "expired", "queue": QUEUE, "routing-keys": ["k.1", "k.2"]},
                    {"count": 1, "reason": "rejected", "queue": "other", "routing-keys": ["k.3"]},
                ]
            },
            ("expired", "k.1"),
        ),
        (None, ("unknown", "")),
        ({"x-death": []}, ("unknown", "")),
        ({"x-death": "junk"}, ("unknown", "")),
        ({"x-death": [{"reason": "expired"}]}, ("unknown", "")),
        ({"x-death": [{"reason": 5, "routing-keys": "k"}]}, ("unknown", "")),
    ],
)
def test_a_dead_letter_says_why_and_where_it_was_sent(headers: dict[str, Any] | None, death: tuple[str, str]) -> None:
    assert death_of(BasicProperties(headers=headers)) == death


def test_a_topic_that_is_no_utf_8_is_a_topic_all_the_same() -> None:
    key: Any = b"edgeai.\xff"
    assert message(key).topic == "edgeai/\ufffd"
    assert death_of(BasicProperties(headers={"x-death": [{"reason": "expired", "routing-keys": [key]}]})) == (
        "expired",
        key,
    )
