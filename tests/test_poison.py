"""Which message breaks the connections, as a timeline of connections that break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_agent.poison import BELIEVED_RETAINED_S, BELIEVED_S, BREAKS, POISON_AFTER, SHORT_CONNECTION_S, Poison


@dataclass(frozen=True)
class Message:
    topic: str
    payload: bytes = b"x" * 100
    retain: bool = False


class Line:
    """A connection's messages, and a broker that closes it on some of them, or a network that cuts it off."""

    def __init__(self, *topics: str) -> None:
        self.poison = Poison()
        self.waiting: dict[int, Any] = {number: Message(topic) for number, topic in enumerate(topics, 1)}
        self.dropped: list[str] = []
        self.now = 0.0
        self.most = 1000

    def connect(self, *, bad: tuple[str, ...] = (), is_cut: bool = False, ends_at_s: float | None = None) -> None:
        """Once: what is sent arrives in order until something bad does, or all is cut off.

        ends_at_s: and it is cut off then, whatever is sent; nothing that is sent again arrives before.
        """
        self.dropped += [topic for _, topic in self.poison.sort_out(self.waiting, self.now)]
        began = self.now
        self.now += 1.0
        if not is_cut and self._arrive(bad):
            self._go_on(bad, began, ends_at_s)
        self.poison.broken(self.waiting, self.now - began, self.now)

    def _go_on(self, bad: tuple[str, ...], began: float, ends_at_s: float | None) -> None:
        while self.now - began < (ends_at_s or 60.0):
            self.now += 0.25
            while again := self.poison.lasted(self.waiting, self.now - began, self.now):
                number, one = again
                self.waiting[number + 1000] = one
                if ends_at_s is None and not self._arrive(bad):
                    return

    def _arrive(self, bad: tuple[str, ...]) -> bool:
        for number, one in list(self.waiting.items()):
            if one.topic in bad or len(one.payload) > self.most:
                return False
            del self.waiting[number]
        return True

    def takes(self, topic: str, nbytes: int = 200) -> bool:
        return self.poison.takes(topic, nbytes, self.now)


def test_what_the_broker_cannot_stand_is_dropped_and_nothing_else() -> None:
    line = Line("good", "bad", "good", "also bad")
    for _ in range(4 * POISON_AFTER):
        line.connect(bad=("bad", "also bad"))
    line.connect()
    assert sorted(line.dropped) == ["also bad", "bad"]
    assert (line.waiting, len(line.poison)) == ({}, 0)
    assert not line.takes("bad")
    assert line.takes("bad", 50)
    assert line.takes("good")


def test_a_bad_network_costs_no_message_however_long() -> None:
    for breaks in range(1, 5 * POISON_AFTER):
        line = Line("state", "reply", "reply")
        for _ in range(breaks):
            line.connect(is_cut=True)
        line.connect()
        assert (line.dropped, line.waiting, len(line.poison)) == ([], {}, 0)
        assert line.takes("state")


def test_what_is_answered_again_with_each_connection_is_set_aside_too() -> None:
    line = Line("bad")
    for _ in range(POISON_AFTER):
        line.connect(bad=("bad",))
    line.poison.sort_out(line.waiting, line.now)
    assert line.poison.holds(Message("bad")) == -1
    assert line.poison.holds(Message("good")) is None
    for _ in range(BREAKS + 1):
        line.connect(bad=("bad",))
    assert line.dropped == ["bad"] * 2
    assert line.poison.holds(Message("bad")) is None


def test_a_network_that_fails_again_while_it_is_sent_again_costs_it_for_a_while_only() -> None:
    line = Line("reply")
    for _ in range(POISON_AFTER):
        line.connect(is_cut=True)
    for _ in range(BREAKS):
        line.connect(bad=("reply",))
    line.connect()
    assert line.dropped == ["reply"]
    assert not line.takes("reply")
    line.now += BELIEVED_S
    assert line.takes("reply")


def test_short_messages_before_a_long_one_are_not_taken_for_it() -> None:
    """What breaks the connection need not be the first in line, and innocents go to the same topic."""
    line = Line(*["reply"] * 40)
    line.waiting[4] = line.waiting[23] = Message("reply", b"x" * 2000)

    for _ in range(POISON_AFTER):
        line.poison.sort_out(line.waiting, line.now)
        line.poison.broken(line.waiting, 0.1, line.now)  # before any is confirmed
    for _ in range(BREAKS + 1):
        line.connect()
    assert line.dropped == ["reply"] * 2
    assert (line.waiting, len(line.poison)) == ({}, 0)
    assert line.takes("reply", 1999)
    assert not line.takes("reply", 2010)


def test_of_what_is_retained_the_latest_word_is_the_last_and_the_only_one() -> None:
    line = Line()
    line.waiting = {number: Message("state", b"%d" % number * size, retain=True) for number, size in ((1, 9), (2, 5))}
    for _ in range(POISON_AFTER):
        line.connect(is_cut=True)
    line.poison.sort_out(line.waiting, line.now)
    assert line.poison.holds(Message("state", b"3" * 7, retain=True)) is not None
    assert len(line.poison) == 1
    told = line.poison.lasted(line.waiting, SHORT_CONNECTION_S, line.now)
    assert told is not None
    assert told[1].payload == b"3" * 7


def test_what_is_retained_is_judged_though_it_is_made_anew_for_each_connection() -> None:
    line = Line()
    for turn in range(POISON_AFTER + BREAKS + 1):
        document = Message("info", b"x" * 90 + b"%d" % turn, retain=True)
        if line.takes("info") and line.poison.holds(document) is None:
            line.waiting[turn] = document
        line.connect(bad=("info",))
    assert set(line.dropped) == {"info"}
    assert not line.takes("info", 1)
    line.now += BELIEVED_RETAINED_S
    assert line.takes("info")


def test_what_has_arrived_after_all_is_not_suspected_for_it() -> None:
    line = Line()
    for _ in range(2):
        line.waiting = {1: Message("state", retain=True)}
        for _ in range(POISON_AFTER):
            line.connect(is_cut=True)
        line.connect(bad=("state",))
        line.connect()
    assert (line.dropped, line.waiting) == ([], {})


def test_a_network_that_ends_every_connection_condemns_nothing() -> None:
    """Also not where each ends just as something is sent again."""
    line = Line("state", "reply")
    for _ in range(POISON_AFTER):
        line.connect(is_cut=True)
    for _ in range(20):
        line.connect(ends_at_s=7.0)
    line.connect()
    assert (line.dropped, line.waiting, len(line.poison)) == ([], {}, 0)
    assert line.takes("state")


def test_two_that_are_alike_do_not_take_turns_for_ever() -> None:
    line = Line("bad", "also bad", "good")
    for _ in range(3 * POISON_AFTER + 2 * BREAKS):
        line.connect(bad=("bad", "also bad"))
    assert sorted(line.dropped) == ["also bad", "bad"]
    assert (line.waiting, len(line.poison)) == ({}, 0)


def test_what_broke_a_connection_that_would_have_ended_anyway_is_tried_again() -> None:
    line = Line("reply")
    for _ in range(POISON_AFTER):
        line.connect(is_cut=True)
    # Set aside, and sent again just before the end; then not, for the connection is no older.
    for _ in range(2):
        line.connect(ends_at_s=7.0)
    line.connect()
    assert (line.dropped, line.waiting, len(line.poison)) == ([], {}, 0)


def test_what_is_set_aside_can_be_let_go_in_its_order() -> None:
    line = Line("first", "second", "third")
    for _ in range(2 * POISON_AFTER):
        line.connect(is_cut=True)
    line.poison.sort_out(line.waiting, line.now)
    assert [one.topic for _, one in line.poison.let_go()] == ["first", "second"]
    assert len(line.poison) == 0
