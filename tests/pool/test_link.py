import inspect
import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pika import BasicProperties, BlockingConnection
from pika.adapters.blocking_connection import BlockingChannel

from edge_agent.core.messages import Message
from edge_agent.pool import link as module
from edge_agent.pool.claim import Claim
from edge_agent.pool.facts import PoolFacts, QueueFigures
from edge_agent.pool.link import CLAIMS_KEPT_S, PoolLink
from edge_agent.pool.messages import message_of
from tests.helpers.processes import wait_until
from tests.helpers.rabbit import DEAD, KEY, QUEUE, REFUSED, FakeBroker, FakeChannel, FakeConnection, fake_broker
from tests.helpers.support import config

GIVE_BACK_AFTER_S = 0.1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "READ_FIGURES_S", 0.02)
    monkeypatch.setattr(module, "GIVE_BACK_AFTER_S", GIVE_BACK_AFTER_S)
    monkeypatch.setattr(module, "BACK_OFF_S", (0.01, 0.02))
    return fake_broker(monkeypatch)


class Board:
    """A link, and what it took."""

    def __init__(self, places: int, hosts: str) -> None:
        self.claims: queue.Queue[Claim] = queue.Queue()
        self.threads: set[str] = set()
        self.link = PoolLink(config(f'[mqtt]\nhost = {hosts}\n[pool]\nname = "pumps"\n'), self._deliver)
        self.link.set_places(places)

    def _deliver(self, claim: Claim) -> None:
        self.threads.add(threading.current_thread().name)
        self.claims.put(claim)

    @property
    def facts(self) -> PoolFacts:
        return self.link.facts(time.monotonic())

    def take(self) -> Claim:
        return self.claims.get(timeout=5)


@contextmanager
def board(places: int = 1, hosts: str = '"one"') -> Iterator[Board]:
    started = Board(places, hosts)
    started.link.start()
    try:
        yield started
    finally:
        started.link.stop(5)
    assert not started.link._thread.is_alive()


@contextmanager
def connected_board(broker: FakeBroker, places: int = 1, hosts: str = '"one"') -> Iterator[Board]:
    with board(places, hosts) as one:
        wait_until(lambda: broker.consumers() == places and one.facts.connected_s is not None, "it is connected")
        yield one


@pytest.mark.parametrize(("fake", "real"), [(FakeConnection, BlockingConnection), (FakeChannel, BlockingChannel)])
def test_the_stand_in_has_the_methods_of_pika(fake: type, real: type) -> None:
    own = {"break_off", "check", "end", "cancel_all", "ready"}
    methods = {name for name, one in inspect.getmembers(fake, inspect.isfunction) if not name.startswith("_")} - own
    assert len(methods) >= 5
    for name in methods:
        known = list(inspect.signature(getattr(real, name)).parameters)
        given = inspect.signature(getattr(fake, name)).parameters.values()
        positional = [one.name for one in given if one.kind is one.POSITIONAL_OR_KEYWORD]
        assert positional == known[: len(positional)]
        assert {one.name for one in given} <= {*known}


class TestPlaces:
    """Each place is a consumer that has at most one request."""

    def test_a_place_gets_the_next_request_once_the_last_one_is_settled(self, broker: FakeBroker) -> None:
        for payload in (b"a", b"b", b"c"):
            broker.publish(payload)
        with connected_board(broker, 2) as one:
            first, second = one.take(), one.take()
            assert (first.message.payload, second.message.payload) == (b"a", b"b")
            assert one.claims.empty()
            first.acknowledge()
            assert one.take().message.payload == b"c"
            assert one.threads == {"pool"}

    def test_consumers_follow_the_number_of_places(self, broker: FakeBroker) -> None:
        with connected_board(broker, 2) as one:
            for places in (3, 1, 0, 2):
                one.link.set_places(places)
                wait_until(lambda places=places: broker.consumers() == places, f"{places} consumers")
                wait_until(lambda places=places: one.facts.places == places, f"{places} places")
        assert len(broker.connections) == 1

    def test_a_board_without_places_answers_dead_letters_alone(self, broker: FakeBroker) -> None:
        broker.publish(b"x")
        broker.publish(b"dead", queue=DEAD, key=DEAD)
        with connected_board(broker, 0) as one:
            assert one.take().message.payload == b"dead"
            assert one.claims.empty()
            assert len(broker.queues[QUEUE]) == 1

    def test_a_request_takes_a_place_until_it_is_settled_even_if_its_consumer_is_gone(self, broker: FakeBroker) -> None:
        for payload in (b"a", b"b"):
            broker.publish(payload)
        with connected_board(broker, 1) as one:
            first = one.take()
            one.link.set_places(0)
            wait_until(lambda: broker.consumers() == 0, "there are no consumers")
            one.link.set_places(1)
            time.sleep(0.05)
            assert broker.consumers() == 0
            first.acknowledge()
            assert one.take().message.payload == b"b"

    def test_a_board_that_cannot_reply_lets_others_have_its_requests(self, broker: FakeBroker) -> None:
        broker.publish(b"x")
        with connected_board(broker, 1) as one:
            one.take()
            one.link.set_places(1, unable_to_reply_s=CLAIMS_KEPT_S)
            wait_until(lambda: one.facts.connected_s is None, "it is disconnected")
            wait_until(lambda: len(broker.queues[QUEUE]) == 1, "the broker has the request again")
            time.sleep(0.05)
            assert one.claims.empty()
            one.link.set_places(1)
            assert one.take().is_repeated

    def test_a_place_that_goes_keeps_its_request(self, broker: FakeBroker) -> None:
        broker.publish(b"x")
        with connected_board(broker, 1) as one:
            claim = one.take()
            one.link.set_places(0)
            wait_until(lambda: broker.consumers() == 0, "there are no consumers")
            assert not broker.queues[QUEUE]
            claim.acknowledge()
            wait_until(lambda: [*broker.acked] == [-claim.message.packet_id], "it is acknowledged")


def test_a_claim_is_the_message_with_what_the_broker_knows_of_it(broker: FakeBroker) -> None:
    stamp_ms = int(time.time() * 1000) - 400
    headers = {"x-delivery-count": 2, "x-reply-to-topic": "edgeai.v1.reply.me", "timestamp_in_ms": stamp_ms}
    broker.publish(b"x", headers=headers, correlation_id="c", content_type="text/plain", expiration="9000")
    with connected_board(broker) as one:
        claim = one.take()
        message, arrived_s_ago = claim.message, time.monotonic() - claim.message.received_at
    assert (message.topic, message.payload) == ("edgeai/v1/hall1/pool/pumps/infer/triage/request", b"x")
    assert (message.response_topic, message.correlation) == ("edgeai/v1/reply/me", b"c")
    assert (message.content_type, message.expiry_s) == ("text/plain", 9)
    assert (claim.deliveries, claim.is_repeated, claim.dead_because) == (3, True, None)
    # Its deadline counts from when the broker got it.
    assert 0.4 <= arrived_s_ago < 4.4


def test_a_request_without_a_stamp_arrives_now(broker: FakeBroker) -> None:
    started_at = time.monotonic()
    broker.publish(b"x")
    with connected_board(broker) as one:
        claim = one.take()
        assert started_at <= claim.message.received_at <= time.monotonic()
        assert (claim.deliveries, claim.is_repeated) == (1, False)
        assert one.facts.waited_ms is None


@pytest.mark.parametrize("reason", ["expired", "delivery_limit"])
def test_a_dead_letter_says_why_and_goes_by_its_first_topic(broker: FakeBroker, reason: str) -> None:
    death = [{"reason": reason, "routing-keys": [KEY, "other"]}]
    broker.publish(b"x", queue=DEAD, key=DEAD, headers={"x-death": death})
    with connected_board(broker) as one:
        claim = one.take()
        assert claim.dead_because == reason
        assert claim.message.topic == "edgeai/v1/hall1/pool/pumps/infer/triage/request"
        claim.acknowledge()
        wait_until(lambda: [*broker.acked] == [-claim.message.packet_id], "it is acknowledged")
    assert not broker.queues[DEAD]


class TestSettle:
    """What becomes of a request at the broker."""

    def test_an_answered_one_alone_is_acknowledged(self, broker: FakeBroker) -> None:
        for payload in (b"a", b"b"):
            broker.publish(payload)
        with connected_board(broker, 2) as one:
            _, second = one.take(), one.take()
            second.acknowledge()
            wait_until(lambda: bool(broker.acked), "it is acknowledged")
            assert [*broker.acked] == [-second.message.packet_id]
            assert not broker.rejected
        # The broker gives the other one to another board.
        assert [waiting.payload for waiting in broker.queues[QUEUE]] == [b"a"]

    def test_one_that_is_given_back_comes_again_after_a_while(self, broker: FakeBroker) -> None:
        broker.publish(b"x")
        with connected_board(broker) as one:
            first, settled_at = one.take(), time.monotonic()
            first.give_back()
            again = one.take()
            assert broker.rejected[-first.message.packet_id] - settled_at >= GIVE_BACK_AFTER_S
            assert (again.message.payload, again.deliveries) == (b"x", 2)
            assert not broker.acked
            assert (one.facts.given_back_total, one.facts.repeated_total) == (1, 1)

    @pytest.mark.expects_warning
    @pytest.mark.parametrize("end", ["acknowledge", "give_back"])
    def test_one_of_a_lost_connection_is_the_brokers_again(self, broker: FakeBroker, end: str) -> None:
        broker.publish(b"x")
        with connected_board(broker) as one:
            lost = one.take()
            broker.connection.break_off()
            again = one.take()
            getattr(lost, end)()
            again.acknowledge()
            wait_until(lambda: not any(channel._unsettled for channel in broker.connection.channels), "it is settled")
        assert (again.deliveries, len(broker.acked)) == (2, 1)
        assert not broker.rejected


class TestStop:
    """The end of a connection that the board wants."""

    def test_what_was_settled_last_is_acknowledged(self, broker: FakeBroker) -> None:
        broker.publish(b"x")
        one = Board(1, '"one"')

        def answer_and_stop(claim: Claim) -> None:
            claim.acknowledge()
            one.link._is_stopping.set()

        one.link._deliver = answer_and_stop
        one.link.start()
        one.link._thread.join(5)
        assert len(broker.acked) == 1
        assert not broker.queues[QUEUE]
        assert (len(broker.connections), broker.connection.is_open) == (1, False)

    def test_it_waits_for_no_further_attempt(self, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BACK_OFF_S", (60.0, 60.0))
        monkeypatch.setattr(module.log, "warning", lambda *_: None)
        broker.refusals["one"] = REFUSED
        with board() as one:
            wait_until(lambda: bool(broker.attempts), "it tries to connect")
            stopped_at = time.monotonic()
            one.link.stop(5)
            assert time.monotonic() - stopped_at < 2


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.expects_warning
class TestLost:
    """A connection that is lost, or cannot be made."""

    def test_it_is_made_at_the_first_host_that_can(self, broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
        with connected_board(broker, hosts='["one", "two"]') as one:
            assert broker.attempts == ["one"]
            broker.refusals["one"] = REFUSED
            broker.connection.break_off()
            wait_until(lambda: len(broker.connections) == 2 and broker.consumers() == 1, "it is connected again")
            assert broker.attempts == ["one", "one", "two"]
            broker.publish(b"x")
            assert one.take().message.payload == b"x"
        head = "the connection to the pool failed, trying again broker=one:5672: "
        assert warnings(caplog) == [f"{head}CONNECTION_FORCED - bye", f"{head}Connection refused"]

    def test_health_says_that_there_is_none(self, broker: FakeBroker) -> None:
        with connected_board(broker, 2) as one:
            connected = one.facts
            broker.refusals["one"] = REFUSED
            broker.connection.break_off()
            wait_until(lambda: one.facts.connected_s is None, "it is lost")
            wait_until(lambda: one.facts.places == 0, "its places are gone")
            lost = one.facts
            del broker.refusals["one"]
            wait_until(lambda: one.facts.connected_s is not None, "it is connected again")
        assert connected.places == 2
        assert connected.queue is not None
        assert lost.queue is None

    def test_a_lost_consumer_ends_the_connection(self, broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
        with connected_board(broker):
            first = broker.connection
            first.channels[0].cancel_all()
            wait_until(lambda: len(broker.connections) == 2, "it connects again")
        assert not first.is_open
        assert [one.rpartition(": ")[2] for one in warnings(caplog)] == ["the pool's queue is gone"]

    def test_an_undeclared_queue_is_waited_for(self, broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
        queues, broker.queues = broker.queues, {}
        with board() as one:
            wait_until(lambda: len(broker.attempts) > 3, "it tries again")
            assert one.facts.connected_s is None
            broker.queues = queues
            wait_until(lambda: one.facts.connected_s is not None, "it is connected")
        assert all(not connection.is_open for connection in broker.connections)
        (told,) = warnings(caplog)
        assert "NOT_FOUND - no queue" in told

    def test_each_fault_of_each_host_is_logged_once_until_there_was_a_connection(
        self, broker: FakeBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        broker.refusals = {"one": REFUSED, "two": TimeoutError("timed out")}
        with board(hosts='["one", "two"]') as one:
            wait_until(lambda: len(broker.attempts) >= 6, "it tries each host three times")
            assert [text.rpartition("broker=")[2] for text in warnings(caplog)] == [
                "one:5672: Connection refused",
                "two:5672: timed out",
            ]
            broker.refusals = {}
            wait_until(lambda: one.facts.connected_s is not None, "it is connected")
            caplog.clear()
            broker.refusals = {"one": REFUSED, "two": TimeoutError("timed out")}
            broker.connection.break_off()
            attempts = len(broker.attempts)
            wait_until(lambda: len(broker.attempts) >= attempts + 6, "it tries again")
        assert len(warnings(caplog)) == 3

    def test_an_outage_of_hours_ends_no_link(self, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
        """2 ** failures overflows a float from attempt 1025 on."""
        monkeypatch.setattr(module, "BACK_OFF_S", (0.0, 0.0))
        broker.refusals["one"] = REFUSED
        with board() as one:
            wait_until(lambda: len(broker.attempts) > 1100, "it tries on")
            del broker.refusals["one"]
            wait_until(lambda: one.facts.connected_s is not None, "it is connected")

    def test_a_fault_of_the_agent_does_not_take_the_board_out_of_its_pool(
        self, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        broker.publish(b"x")
        one = Board(1, '"one"')
        monkeypatch.setattr(
            one.link, "_deliver", lambda claim: 1 / 0 if claim.deliveries == 1 else one.claims.put(claim)
        )
        one.link.start()
        assert one.take().deliveries == 2
        one.link.stop(5)
        assert warnings(caplog) == ["the pool's connection failed because of a bug"]


@pytest.mark.expects_warning
def test_a_message_that_meets_a_bug_cuts_no_board_off(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(key: str, tag: int, properties: BasicProperties, payload: bytes, *, received_at: float) -> Message:
        assert payload != b"bad", "a bug"
        return message_of(key, tag, properties, payload, received_at=received_at)

    monkeypatch.setattr(module, "message_of", read)
    broker.publish(b"bad")
    broker.publish(b"good")
    with connected_board(broker) as one:
        assert one.take().message.payload == b"good"
        wait_until(lambda: not broker.queues[DEAD] and len(broker.acked) == 1, "the dead letter ends")
    assert len(broker.connections) == 1


class TestFacts:
    """What health reports of the pool."""

    def test_before_the_first_connection_nothing_is_known(self) -> None:
        facts = Board(1, '"one"').facts
        assert (facts.name, facts.connected_s, facts.queue, facts.places) == ("pumps", None, None, 0)

    def test_the_queues_figures_are_read_again_and_again(self, broker: FakeBroker) -> None:
        with connected_board(broker, 1) as one:
            broker.publish(b"a")
            one.take()
            broker.publish(b"b")
            wait_until(lambda: one.facts.queue == QueueFigures(waiting=1, places=1, dead=0), "the queue is counted")

    def test_totals_count_from_the_start_and_the_rate_for_a_minute(self, broker: FakeBroker) -> None:
        stamp_ms = int(time.time() * 1000) - 300
        for count in range(3):
            broker.publish(b"x", headers={"x-delivery-count": count, "timestamp_in_ms": stamp_ms})
        with connected_board(broker, 3) as one:
            for _ in range(3):
                one.take()
            now = time.monotonic()
            facts, later = one.link.facts(now), one.link.facts(now + module.RATE_WINDOW_S + 1)
        assert (facts.claimed_total, facts.repeated_total, facts.given_back_total) == (3, 2, 0)
        assert (facts.per_minute, later.per_minute, later.claimed_total) == (3, 0, 3)
        assert facts.waited_ms is not None
        assert 300 <= facts.waited_ms < 5300
