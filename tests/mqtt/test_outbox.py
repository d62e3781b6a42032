from dataclasses import replace
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.core.messages import Publication
from edge_agent.mqtt import outbox as module
from edge_agent.mqtt.outbox import (
    BREAKS_WITHIN_S,
    CONFIRMED_WITHIN_S,
    MAX_BREAKS,
    MAX_IN_FLIGHT,
    ONE_BY_ONE_AFTER,
    TOPIC_BARRED_S,
    Outbox,
    PublishResult,
)

pytestmark = pytest.mark.expects_warning


class Site:
    """An outbox over a paho client without a connection, and what the broker does."""

    def __init__(self, max_packet_bytes: int | None = None) -> None:
        self.now = 1000.0
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        self.outbox = Outbox(self.client, max_packet_bytes, lambda: self.now)

    def publish(self, topic: str, payload: bytes = b"x", **fields: Any) -> int:
        number = self.outbox.publish(Publication(topic=topic, payload=payload, **fields))
        assert number is not None
        return number

    def confirm(self, number: int) -> None:
        self.outbox.on_confirmed(number)
        del self.client._out_messages[number]

    def connect(self, max_packet_bytes: int | None = None, max_in_flight: int | None = None) -> None:
        """Connects as paho does, which first marks what it is about to send."""
        self.client._messages_reconnect_reset_out()
        self.outbox.on_connecting()
        self.outbox.on_connected(max_packet_bytes, max_in_flight)

    def break_connection(self, after_s: float = 0.1) -> None:
        self.now += after_s
        self.outbox.on_disconnected()

    def break_connections(self, count: int) -> None:
        for _ in range(count):
            self.connect()
            self.break_connection()

    def topics(self) -> list[str]:
        return [one.topic for one in self.client._out_messages.values()]

    def about_to_be_sent(self) -> list[str]:
        return [one.topic for one in self.client._out_messages.values() if one.state == paho.mqtt_ms_publish]


def test_a_message_is_reported_once_when_the_broker_has_it() -> None:
    site = Site()
    numbers = [site.publish("r/1"), site.publish("r/2")]
    for number in numbers:
        site.confirm(number)
    site.outbox.on_confirmed(77)  # a message at QoS 0
    assert site.outbox.take_results() == [(number, PublishResult.CONFIRMED) for number in numbers]
    assert site.outbox.take_results() == []


def test_past_the_limit_messages_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 1)
    site = Site()
    site.publish("r/2")
    assert site.outbox.publish(Publication(topic="r/2", payload=b"")) is None
    assert site.outbox.publish(Publication(topic="r/+", payload=b"", qos=0)) is None  # no topic
    assert (site.outbox.published, site.outbox.dropped) == (1, 2)


def test_a_broker_that_confirms_nothing_is_noticed_once_in_a_while() -> None:
    site = Site()
    site.connect()
    site.now += 2 * CONFIRMED_WITHIN_S
    assert not site.outbox.is_newly_stuck()
    number = site.publish("r/1")
    site.publish("r/2")

    def is_stuck_after(seconds: float) -> bool:
        site.now += seconds
        return site.outbox.is_newly_stuck()

    assert not is_stuck_after(CONFIRMED_WITHIN_S - 1)
    site.confirm(number)
    assert [is_stuck_after(CONFIRMED_WITHIN_S - 1), is_stuck_after(2), is_stuck_after(2)] == [False, True, False]
    for _ in range(MAX_BREAKS):
        # Breaking the connection because of that says nothing against the message that waits first.
        site.break_connection()
        site.connect()
        assert is_stuck_after(CONFIRMED_WITHIN_S)
    assert site.topics() == ["r/2"]


def test_a_number_of_paho_that_is_in_use_still_costs_no_message() -> None:
    site = Site()
    for topic in "abc":
        site.publish(topic)
    site.client._last_mid = 65535
    assert site.publish("d") == 4
    assert site.topics() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(("configured", "of_broker"), [(None, 2000), (2000, None), (3000, 2000), (2000, 3000)])
def test_what_is_too_large_for_the_broker_is_always_rejected(configured: int | None, of_broker: int | None) -> None:
    site, own, limit = Site(), 9 + len("r"), 2000
    large, fits = site.publish("r", b"x" * (limit - own + 1)), site.publish("r", b"x" * (limit - own))
    site.outbox._configured_max_bytes = configured
    site.connect(of_broker)
    assert site.outbox.take_results() == [(large, PublishResult.UNSENDABLE)]
    assert list(site.client._out_messages) == [fits]
    assert site.outbox.publish(Publication(topic="r", payload=b"x" * (limit - own + 1))) is None
    assert site.outbox.dropped == 2


def test_no_more_is_sent_at_once_than_the_broker_says_it_takes() -> None:
    site = Site()
    for topic in "abcdefgh":
        site.publish(topic)
    site.connect(max_in_flight=3)
    assert site.about_to_be_sent() == ["a", "b", "c"]
    assert site.client.max_inflight_messages == 3
    site.break_connection()
    site.connect()
    assert site.about_to_be_sent() == [*"abcdefgh"]
    assert site.client.max_inflight_messages == MAX_IN_FLIGHT


def test_a_message_that_connections_break_on_is_rejected_and_the_rest_is_sent() -> None:
    site = Site()
    bad = site.publish("bad")
    for _ in range(MAX_IN_FLIGHT):
        site.publish("good")
    for broken in range(MAX_BREAKS):
        assert site.outbox.take_results() == []
        site.connect()
        # One by one, it is certain that the connection breaks on the first.
        assert len(site.about_to_be_sent()) == (1 if broken >= ONE_BY_ONE_AFTER else MAX_IN_FLIGHT)
        site.break_connection()
    site.connect()
    assert site.outbox.take_results() == [(bad, PublishResult.UNSENDABLE)]
    assert site.about_to_be_sent() == ["good"] * MAX_IN_FLIGHT
    assert [words for _, words in site.outbox.refusals] == ["the broker closes the connection"]


def test_what_is_like_a_message_that_was_given_up_is_rejected_at_once_for_a_while() -> None:
    """The broker brings a request again at each connection, and each time the agent repeats the answer."""
    site = Site()
    for _ in range(MAX_BREAKS):
        site.publish("r", b"x" * 500)
        site.break_connections(1)
    short, elsewhere = site.publish("r", b"x" * 400), site.publish("r/2", b"x" * 500)
    site.connect()
    assert list(site.client._out_messages) == [short, elsewhere]
    assert not site.outbox.can_send(Publication(topic="r", payload=b"x" * 490))
    site.now += TOPIC_BARRED_S
    assert site.outbox.can_send(Publication(topic="r", payload=b"x" * 500))


@pytest.mark.parametrize("what", ["a late break", "a confirmation", "another first message"])
def test_breaks_that_have_another_cause_do_not_count(what: str) -> None:
    site = Site()
    first, second = site.publish("r/1"), site.publish("r/2")
    site.break_connections(MAX_BREAKS - 1)
    site.connect()
    if what == "a late break":
        site.break_connection(BREAKS_WITHIN_S + 0.1)
    else:
        site.confirm(second if what == "a confirmation" else first)
        site.break_connection()
    site.break_connections(MAX_BREAKS - 2)
    site.connect()
    assert [result for _, result in site.outbox.take_results() if result is PublishResult.UNSENDABLE] == []


def test_a_retained_topic_that_breaks_connections_is_left_out_for_a_while_and_the_others_arrive() -> None:
    site = Site()
    state, info = (Publication(topic=topic, payload=b"x" * 500, retain=True) for topic in ("state", "info"))
    for number in range(1, 3 * MAX_BREAKS):
        site.connect()
        for publication in (state, replace(info, payload=info.payload + b"%d" % number)):
            site.outbox.publish(publication)
        # The broker confirms what comes before `info`, and closes the connection on that.
        while (first := next(iter(site.client._out_messages.items()), None)) and first[1].topic != "info":
            site.confirm(first[0])
        if not site.topics():
            break
        site.break_connection()
    else:
        pytest.fail("no connection lasts")
    assert site.outbox.publish(info) is None
    site.now += TOPIC_BARRED_S
    assert site.outbox.publish(info) is not None
