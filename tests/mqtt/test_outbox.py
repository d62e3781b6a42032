from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from edge_agent.core.publications import Publication
from edge_agent.mqtt.outbox import (
    BREAKS_WITHIN_S,
    MAX_BREAKS,
    MAX_IN_FLIGHT,
    MAX_QUEUED,
    ONE_BY_ONE_AFTER,
    TOPIC_REST_S,
    Outbox,
    PublishResult,
)

pytestmark = pytest.mark.expects_warning


class Waiting:
    """As paho's message: its payload may be replaced."""

    def __init__(self, publication: Publication) -> None:
        self.topic, self.payload = publication.topic, publication.payload
        self.retain, self.properties = publication.retain, None


class Queue:
    """Stands in for paho's queue: it gives the lowest free number."""

    def __init__(self) -> None:
        self.waiting: dict[int, Any] = {}
        self.lock = threading.RLock()

    def hand_over(self, publication: Publication) -> int:
        number = next(number for number in range(1, 65536) if number not in self.waiting)
        if publication.qos:
            self.waiting[number] = Waiting(publication)
        return number

    def packet_bytes(self, message: Any) -> int:
        return len(message.payload)


class Site:
    """An outbox, and what the broker does."""

    def __init__(self, max_packet_bytes: int | None = None) -> None:
        self.now = 1000.0
        self.queue = Queue()
        self.outbox = Outbox(self.queue, max_packet_bytes, lambda: self.now)

    def publish(self, topic: str, payload: bytes = b"x", **fields: Any) -> int | None:
        return self.outbox.publish(Publication(topic=topic, payload=payload, **fields))

    def confirm(self, number: int) -> None:
        self.outbox.confirmed(number)
        del self.queue.waiting[number]

    def connect(self, max_packet_bytes: int | None = None) -> None:
        self.outbox.connection_tried()
        self.outbox.connection_made(max_packet_bytes)

    def break_connection(self, after_s: float = 0.1) -> None:
        self.now += after_s
        self.outbox.connection_lost()

    def topics(self) -> list[str]:
        return [message.topic for message in self.queue.waiting.values()]


def test_a_message_is_reported_once_when_the_broker_has_it() -> None:
    site = Site()
    first, second = site.publish("r/1"), site.publish("r/2")
    for number in (first, second):
        assert number is not None
        site.confirm(number)
    site.outbox.confirmed(77)  # a message at QoS 0
    assert site.outbox.take_results() == [(first, PublishResult.CONFIRMED), (second, PublishResult.CONFIRMED)]
    assert site.outbox.take_results() == []


def test_past_the_limit_messages_are_dropped_and_counted() -> None:
    site = Site()
    site.queue.waiting = dict.fromkeys(range(1, MAX_QUEUED))
    assert site.publish("r/2") is not None
    assert site.publish("r/2") is None
    assert (site.outbox.published, site.outbox.dropped) == (1, 1)


@pytest.mark.parametrize(
    ("configured", "of_broker", "limit"),
    [(None, 2000, 2000), (2000, None, 2000), (3000, 2000, 2000), (2000, 3000, 2000)],
)
def test_what_is_too_large_for_the_broker_is_rejected_whether_it_waits_or_is_new(
    configured: int | None, of_broker: int | None, limit: int
) -> None:
    site = Site(configured)
    site.queue.waiting = {7: Waiting(Publication(topic="r", payload=b"x" * (limit + 1)))}
    fits = site.publish("r", b"x" * limit)
    site.connect(of_broker)
    assert site.outbox.take_results() == [(7, PublishResult.REJECTED)]
    assert list(site.queue.waiting) == [fits]
    assert site.publish("r", b"x" * (limit + 1)) is None
    assert site.outbox.dropped == 2


def test_a_message_that_connections_break_on_is_rejected_and_the_rest_is_sent() -> None:
    site = Site()
    numbers = [site.publish(topic) for topic in ("bad", "good", "good")]
    for broken in range(MAX_BREAKS):
        assert site.outbox.take_results() == []
        site.connect()
        # One by one, it is certain that the connection breaks on the first.
        assert site.outbox.in_flight == (1 if broken >= ONE_BY_ONE_AFTER else MAX_IN_FLIGHT)
        site.break_connection()
    site.connect()
    assert site.outbox.take_results() == [(numbers[0], PublishResult.REJECTED)]
    assert site.topics() == ["good", "good"]
    assert site.outbox.in_flight == MAX_IN_FLIGHT
    assert [words for _, words in site.outbox.refusals] == ["the broker closes the connection"]


def test_what_is_like_a_message_that_was_given_up_is_rejected_at_once_for_a_while() -> None:
    """The broker brings a request again at each connection, and each time the agent repeats the answer."""
    site = Site()
    for _ in range(MAX_BREAKS):
        site.publish("r", b"x" * 500)
        site.connect()
        site.break_connection()
    short, elsewhere = site.publish("r", b"x" * 400), site.publish("r/2", b"x" * 500)
    site.connect()
    assert list(site.queue.waiting) == [short, elsewhere]
    assert not site.outbox.can_send(Publication(topic="r", payload=b"x" * 499))
    site.now += TOPIC_REST_S
    assert site.outbox.can_send(Publication(topic="r", payload=b"x" * 500))


@pytest.mark.parametrize("what", ["a late break", "a confirmation", "another first message"])
def test_breaks_that_have_another_cause_do_not_count(what: str) -> None:
    site = Site()
    first = site.publish("r/1")
    assert first is not None
    for _ in range(MAX_BREAKS - 1):
        site.connect()
        site.break_connection()
    site.connect()
    if what == "a late break":
        site.break_connection(BREAKS_WITHIN_S + 0.1)
    elif what == "a confirmation":
        other = site.publish("r/2")
        assert other is not None
        site.confirm(other)
        site.break_connection()
    else:
        site.publish("r/2")
        site.confirm(first)
        site.outbox.take_results()
        site.break_connection()
    for _ in range(MAX_BREAKS - 2):
        site.connect()
        site.break_connection()
    site.connect()
    assert [result for _, result in site.outbox.take_results() if result is PublishResult.REJECTED] == []


def test_of_a_retained_topic_only_the_latest_value_is_sent_again_in_the_place_of_the_first() -> None:
    site = Site()
    site.connect()
    for payload in (b"1", b"2", b"3"):
        site.publish("info", payload, retain=True)
        site.publish("event", payload)
    site.break_connection()
    site.connect()
    assert [(one.topic, one.payload) for one in site.queue.waiting.values()] == [
        ("info", b"3"), ("event", b"1"), ("event", b"2"), ("event", b"3")
    ]  # fmt: skip


def test_a_retained_topic_that_breaks_connections_is_left_out_for_a_while_and_the_others_arrive() -> None:
    site = Site()
    state, info = (Publication(topic=topic, payload=b"x", retain=True) for topic in ("state", "info"))
    for number in range(1, 3 * MAX_BREAKS):
        site.connect()
        for publication in (state, replace(info, payload=b"%d" % number)):
            site.outbox.publish(publication)
        # The broker confirms what comes before `info`, and closes the connection on that.
        while (first := next(iter(site.queue.waiting.items()), None)) and first[1].topic != "info":
            site.confirm(first[0])
        if not site.queue.waiting:
            break
        site.break_connection()
    else:
        pytest.fail("no connection lasts")
    assert site.outbox.publish(info) is None
    site.now += TOPIC_REST_S
    assert site.outbox.publish(info) is not None
