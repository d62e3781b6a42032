from __future__ import annotations

import threading
from typing import Any

import pytest

from edge_agent.core.publications import Publication
from edge_agent.mqtt.first_in_line import MAX_IN_FLIGHT, SUSPECTED_AFTER
from edge_agent.mqtt.outbox import MAX_QUEUED, Fate, Outbox


class Queue:
    """Where paho's stands: it gives the lowest number that is free."""

    def __init__(self) -> None:
        self.waiting: dict[int, Any] = {}
        self.lock = threading.RLock()

    def hand_over(self, message: Any) -> int:
        key = next(key for key in range(1, 65536) if key not in self.waiting)
        if message.qos:
            self.waiting[key] = message
        return key

    def packet_bytes(self, message: Any) -> int:
        return len(message.payload)


class Site:
    """An outbox, and what the broker does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.queue = Queue()
        self.outbox = Outbox(self.queue, lambda: self.now, lambda: 0.5)

    def publish(self, topic: str, nbytes: int = 10, **fields: Any) -> int | None:
        return self.outbox.publish(Publication(topic=topic, payload=b"x" * nbytes, **fields))

    def confirm(self, key: int) -> None:
        self.outbox.confirmed(key)
        del self.queue.waiting[key]

    def set_aside(self, topic: str, nbytes: int = 10) -> int | None:
        """It alone is first in line as connections break."""
        number = self.publish(topic, nbytes)
        for _ in range(SUSPECTED_AFTER):
            self.outbox.connection_made(None)
            self.outbox.answered()
            self.outbox.connection_broken()
            self.outbox.connection_is_tried()
        assert self.queue.waiting == {}
        assert len(self.outbox) == 1
        return number


def test_numbers_are_its_own_though_paho_gives_one_again() -> None:
    site = Site()
    first = site.publish("r/1")
    site.confirm(1)
    second = site.publish("r/1")
    site.confirm(1)
    assert first != second
    assert site.outbox.take_fates() == [(first, Fate.CONFIRMED), (second, Fate.CONFIRMED)]
    assert site.outbox.take_fates() == []


def test_what_is_set_aside_is_confirmed_under_the_number_that_its_sender_knows() -> None:
    site = Site()
    aside = site.set_aside("r/1")
    other = site.publish("r/2")
    site.outbox.connection_made(None)
    site.now += 20.0
    assert site.outbox.take_fates() == []
    assert [one.topic for one in site.queue.waiting.values()] == ["r/2", "r/1"]
    site.confirm(2)
    site.confirm(1)
    assert site.outbox.take_fates() == [(aside, Fate.CONFIRMED), (other, Fate.CONFIRMED)]
    assert len(site.outbox) == 0


@pytest.mark.expects_warning
def test_too_many_are_dropped_and_what_is_set_aside_is_never_too_much() -> None:
    site = Site()
    aside = site.set_aside("r/1")
    site.queue.waiting = dict.fromkeys(range(2, MAX_QUEUED))
    assert site.publish("r/2") is not None
    assert len(site.outbox) == MAX_QUEUED
    assert site.publish("r/2") is None
    assert site.outbox.dropped == 1
    site.outbox.connection_made(None)
    site.queue.waiting = {}
    site.now += 20.0
    site.outbox.take_fates()
    site.confirm(1)
    assert site.outbox.take_fates() == [(aside, Fate.CONFIRMED)]


@pytest.mark.expects_warning
def test_what_waits_for_a_broker_that_takes_less_is_refused_wherever_it_waits() -> None:
    site = Site()
    aside = site.set_aside("r/1", 3000)
    short, long = site.publish("r/2", 2000), site.publish("r/2", 2001)
    site.outbox.connection_made(2000)
    assert sorted(site.outbox.take_fates()) == [(aside, Fate.UNTAKEN), (long, Fate.UNTAKEN)]
    assert [site.outbox.number(key) for key in site.queue.waiting] == [short]
    assert site.publish("r/2", 2001) is None
    assert site.outbox.dropped == 3


@pytest.mark.expects_warning
def test_a_message_that_breaks_connections_is_refused_under_its_number_and_one_by_one_before_that() -> None:
    site = Site()
    for _ in range(3):
        site.publish("r/2")
    assert site.outbox.in_flight == MAX_IN_FLIGHT
    for _ in range(3):
        site.outbox.connection_made(None)
        site.outbox.connection_broken()
    site.outbox.connection_made(None, 10)
    assert site.outbox.in_flight == 1
    for key in (1, 2, 3):
        site.confirm(key)
    assert site.outbox.in_flight == 10
    aside = site.set_aside("r/1")
    fates: list[tuple[int, Fate]] = []
    while not fates:
        site.outbox.connection_made(None)
        site.now += 100.0
        site.outbox.take_fates()
        site.now += 0.01
        site.outbox.connection_broken()
        site.outbox.connection_is_tried()
        fates = site.outbox.take_fates()
        assert site.now < 1000.0
    assert fates == [(aside, Fate.UNTAKEN)]


def test_nothing_that_nobody_would_notice_is_sent_where_something_is_suspected() -> None:
    site = Site()
    assert site.publish("r/1", qos=0) is not None
    site.set_aside("r/1", 500)
    assert site.publish("r/1", qos=0) is None
    assert site.publish("r/2", qos=0) is not None
    assert (site.outbox.published, site.outbox.dropped) == (3, 1)


def test_at_the_end_what_is_set_aside_is_sent_after_all_else_one_by_one() -> None:
    site = Site()
    aside = [site.set_aside("r/1"), site.publish("r/1")]
    last = site.publish("state", retain=True)
    sent = []
    while site.queue.waiting:
        (key,) = site.queue.waiting
        sent.append(site.outbox.number(key))
        site.outbox.send_last()
        assert len(site.queue.waiting) == 1
        site.confirm(key)
        site.outbox.send_last()
    assert sent == [last, *reversed(aside)]
