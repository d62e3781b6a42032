"""Bad links and bad brokers on a clock of their own: `python -m tests.helpers.bad_links [--outages N] [--seed N]`.

The outbox is the agent's; paho, network and broker are played. No innocent message may ever be dropped, on whatever
link; what the broker closes the connection on must be, in bounded time, and all else arrive meanwhile.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import logging
import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edge_agent.core.publications import Publication
from edge_agent.mqtt.outbox import Fate, Outbox

POLL_S = 0.25
KEEPALIVE_S = 7.0
BACK_OFF_S = 15.0
# paho's number of a SUBSCRIBE.
SUBSCRIPTION = 0
# What closes a connection throws away of the acknowledgements before it.
LOST_ACKNOWLEDGEMENTS = 0.3


@dataclass(frozen=True)
class Phase:
    """Of a link. lives_s: how long connections do, between these, or at least and on average; None = for ever.

    silent: how many of their ends are told to nobody, so that a keepalive finds them; one_way: how many of these still
    let messages through, and no answer. broker_s: how long the broker takes for a PUBACK.
    """

    until_s: float = 1e9
    rtt_s: tuple[float, float] = (0.05, 0.1)
    lives_s: tuple[float, float] | None = None
    is_memoryless: bool = False
    refused: float = 0.0
    silent: float = 0.0
    one_way: float = 0.5
    broker_s: tuple[float, float] = (0.0, 0.0)

    def life_s(self, draw: random.Random) -> float:
        if self.lives_s is None:
            return 1e9
        least, other = self.lives_s
        return least + draw.expovariate(1 / (other - least)) if self.is_memoryless else draw.uniform(least, other)


@dataclass
class Connection:
    """heard_until: by the broker; answered_until: by the agent. up_at, down_at: when the latest arrives, each way."""

    rtt_s: float
    broker_s: tuple[float, float]
    heard_until: float = 0.0
    answered_until: float = 0.0
    is_open: bool = True
    up_at: float = 0.0
    down_at: float = 0.0


@dataclass
class World:
    """An outbox, paho's queue, a link, a broker. births: what is published anew at each connection, by its number."""

    phases: list[Phase]
    seed: int
    is_poison: Callable[[Publication], bool] = lambda _: False
    births: Callable[[int], list[Publication]] = lambda _: []
    now: float = 0.0
    # By number: when it was published, and what; when it first arrived, and when it was dropped.
    published: dict[int, tuple[float, Publication]] = field(default_factory=dict)
    arrived: dict[int, float] = field(default_factory=dict)
    dropped: dict[int, float] = field(default_factory=dict)
    # What was not taken at all.
    refused: list[Publication] = field(default_factory=list)
    received: list[Publication] = field(default_factory=list)
    duplicates: int = 0
    breaks: int = 0

    def __post_init__(self) -> None:
        self.waiting: OrderedDict[int, Any] = OrderedDict()
        self.lock = threading.RLock()
        self._draw = random.Random(self.seed)
        self._sent: set[int] = set()
        self._keys = itertools.count(SUBSCRIPTION + 1)
        self._order = itertools.count()
        self._todo: list[tuple[float, int, Callable[[], None]]] = []
        self.outbox = Outbox(self, lambda: self.now, self._draw.random)
        self._connection: Connection | None = None
        self._back_off_s = 1.0
        self._connects = 0
        self._at(0.0, self._dial)
        self._at(0.0, self._poll)
        for phase, following in itertools.pairwise(self.phases):
            self._at(phase.until_s, partial(self._change, following))

    def _at(self, at: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._todo, (at, next(self._order), act))

    def run(self, until_s: float) -> None:
        while self._todo and self._todo[0][0] <= until_s:
            self.now, _, act = heapq.heappop(self._todo)
            act()
        self.now = until_s

    def publish(self, at: float, publication: Publication) -> None:
        self._at(at, partial(self._publish, publication))

    def _publish(self, publication: Publication) -> None:
        number = self.outbox.publish(publication)
        if number is None:
            self.refused.append(publication)
        else:
            self.published[number] = (self.now, publication)

    def _poll(self) -> None:
        for number, fate in self.outbox.take_fates():
            if fate is Fate.UNTAKEN:
                self.dropped[number] = self.now
        self._at(self.now + POLL_S, self._poll)

    def lost(self) -> list[int]:
        """Innocents that did not arrive; of what is retained, only the last word counts."""
        return [
            number
            for number, (_, one) in self.published.items()
            if not one.retain and not self.is_poison(one) and number not in self.arrived
        ]

    # What paho does; with `waiting` and `lock` it is its queue.

    def hand_over(self, message: Any) -> int:
        key = next(self._keys)
        self.waiting[key] = message
        self._send_more()
        return key

    def packet_bytes(self, message: Any) -> int:
        return len(message.payload)

    def _send_more(self) -> None:
        if self._connection is None:
            return
        for key, message in self.waiting.items():
            if len(self._sent) >= self.outbox.in_flight:
                return
            if key not in self._sent:
                self._sent.add(key)
                self._send(self._connection, key, message)

    def _dial(self) -> None:
        self.outbox.connection_is_tried()
        phase = next(phase for phase in self.phases if self.now < phase.until_s)
        rtt_s, life_s = self._draw.uniform(*phase.rtt_s), phase.life_s(self._draw)
        if self._draw.random() < phase.refused or life_s < 2 * rtt_s:
            self._back_off_s = min(BACK_OFF_S, 2 * self._back_off_s)
            self._at(self.now + min(life_s, 2 * rtt_s) + self._back_off_s, self._dial)
            return
        connection = Connection(rtt_s, phase.broker_s)
        self._doom(connection, phase, life_s)
        self._at(self.now + 2 * rtt_s, partial(self._connected, connection))

    def _connected(self, connection: Connection) -> None:
        self._connection, self._back_off_s = connection, self._draw.uniform(0.5, 1.5)
        self._connects += 1
        self._sent.clear()
        self.outbox.connection_made(None)
        self._send(connection, SUBSCRIPTION, None)
        for one in self.births(self._connects):
            self._publish(one)
        self._send_more()

    def _ended(self, connection: Connection) -> None:
        if connection.is_open and self._connection is connection:
            self._connection = None
            self.breaks += 1
            self.outbox.connection_broken()
            self._at(self.now + self._back_off_s, self._dial)
        connection.is_open = False

    # What network and broker do.

    def _change(self, phase: Phase) -> None:
        """What stands as a phase begins ends like the others in it."""
        if self._connection is not None and phase.lives_s is not None:
            self._doom(self._connection, phase, phase.life_s(self._draw) * self._draw.random())

    def _doom(self, connection: Connection, phase: Phase, life_s: float) -> None:
        connection.heard_until = connection.answered_until = told_at = self.now + life_s
        if self._draw.random() < phase.silent:
            told_at += self._draw.uniform(KEEPALIVE_S, 2 * KEEPALIVE_S)
            if self._draw.random() < phase.one_way:
                connection.heard_until = told_at
        self._at(told_at, partial(self._ended, connection))

    def _one_way_s(self, connection: Connection) -> float:
        return connection.rtt_s / 2 * self._draw.uniform(0.8, 1.2)

    def _send(self, connection: Connection, key: int, message: Any) -> None:
        connection.up_at = max(connection.up_at, self.now + self._one_way_s(connection))
        self._at(connection.up_at, partial(self._arrive, connection, key, message))

    def _arrive(self, connection: Connection, key: int, message: Any) -> None:
        if self.now > connection.heard_until:
            return
        down_at = max(connection.down_at, self.now + self._one_way_s(connection))
        if message is not None and self.is_poison(message):
            connection.heard_until = self.now
            if self.now < connection.answered_until:
                if self._draw.random() < LOST_ACKNOWLEDGEMENTS:
                    connection.answered_until = self.now
                self._at(down_at, partial(self._ended, connection))
            return
        if message is not None:
            down_at += self._draw.uniform(*connection.broker_s)
            self._note(key, message)
        connection.down_at = down_at
        if down_at <= connection.answered_until:
            self._at(down_at, partial(self._answered, connection, key))

    def _note(self, key: int, message: Any) -> None:
        self.received.append(message)
        number = self.outbox.number(key)
        if number is not None:  # or it was taken out in the meantime, and comes again
            self.duplicates += number in self.arrived
            self.arrived.setdefault(number, self.now)

    def _answered(self, connection: Connection, key: int) -> None:
        if self._connection is not connection or self.now > connection.answered_until:
            return
        self.outbox.answered()
        if key in self.waiting:
            self.outbox.confirmed(key)
            del self.waiting[key]
            self._sent.discard(key)
            self._send_more()


def message(number: int, topic: str = "r/1", nbytes: int = 300, *, retain: bool = False, text: str = "") -> Publication:
    return Publication(topic=topic, payload=f"{number} {text} ".encode().ljust(nbytes, b"x"), retain=retain)


def births(connect: int) -> list[Publication]:
    """Made anew, and not always of the same size."""
    return [message(connect, topic, 400 + connect % 7, retain=True) for topic in ("state", "info", "health")]


def _bad(draw: random.Random, until_s: float) -> Phase:
    u = draw.uniform
    refused, silent = u(0, 0.5), u(0, 0.5)
    length_s = draw.choice((2.6, 4.0, 5.0, 7.0, 10.0, 15.0))
    return draw.choice(
        (
            Phase(until_s, (0.6, 1.0), (2.0, 3.0), refused=refused, silent=silent),
            Phase(until_s, (0.3, u(0.5, 1.5)), (0.1, u(2, 20)), is_memoryless=True, refused=refused, silent=silent),
            Phase(until_s, (0.3, u(0.4, 1.2)), (length_s, length_s + 0.01), refused=refused / 2, silent=silent / 2),
            Phase(until_s, (2.0, 4.0), (4.0, u(8, 40)), refused=refused / 2, silent=silent),
            Phase(until_s, (0.1, 0.5), (1.0, u(3, 20)), refused=refused / 2, silent=0.9, one_way=0.9),
            Phase(until_s, (0.01, 0.05), (0.02, u(0.1, 3)), is_memoryless=True, refused=refused / 2, silent=silent),
            Phase(until_s, (0.05, 0.3), (0.5, u(2, 15)), is_memoryless=True, silent=silent, broker_s=(0.0, u(0.5, 3))),
        )
    )


def _phases(draw: random.Random) -> Iterator[Phase]:
    """Good, then an outage, a long one, or a bad link between short good times; good again."""
    good = (0.02, draw.uniform(0.03, 0.5))
    at = 30.0
    yield Phase(at, good)
    style = draw.choice((600.0, 1800.0, 0.0))
    if style:
        yield _bad(draw, at := at + style)
    while not style and at < 900.0:
        yield _bad(draw, at := at + draw.uniform(3, 60))
        yield Phase(at := at + draw.uniform(3, 60), good)
    yield Phase(1e9, good)


def outage(seed: int) -> World:
    """Replies, with or without retained documents beside them, on a link that is bad for a while."""
    draw = random.Random(seed)
    phases = list(_phases(draw))
    world = World(phases, seed, births=births if draw.random() < 0.5 else lambda _: [])
    rate, at, end = draw.choice((0.02, 0.1, 0.3, 1.0)), 0.0, phases[-2].until_s
    for number in itertools.count():
        at += draw.expovariate(rate)
        if at > end:
            break
        topic = draw.choice(("r/1", "r/1", "r/2", f"r/{number}"))
        world.publish(at, message(number, topic, draw.choice((300, 300, 400, 5000))))
    world.run(end + 300.0)
    return world


LINKS = {
    "near": Phase(rtt_s=(0.001, 0.003)),
    "far": Phase(rtt_s=(0.6, 1.0)),
    "unstable": Phase(rtt_s=(0.3, 0.6), lives_s=(0.5, 30.0), is_memoryless=True, silent=0.2),
    "hardly any": Phase(rtt_s=(0.6, 1.0), lives_s=(2.0, 3.0)),
}
POISONS: dict[str, Callable[[Publication], bool]] = {
    "content": lambda one: b"poison" in one.payload,
    "topic": lambda one: one.topic == "bad",
    "topics": lambda one: one.topic.startswith("bad/"),
    "size": lambda one: len(one.payload) > 4000,
    "info": lambda one: one.topic == "info",
    "state": lambda one: one.topic == "state",
    "retained": lambda one: one.retain,
}


def poisoned(link: str, poison: str, seed: int, *, horizon_s: float) -> World:
    """A stream of replies, some of which the broker closes the connection on; or it does so on what is retained."""
    draw = random.Random(seed)
    is_retained = poison in ("info", "state", "retained")
    world = World([LINKS[link]], seed, POISONS[poison], births if is_retained else lambda _: [])
    at = 1.0
    for number in itertools.count():
        at += draw.expovariate(0.5)
        if at > 0.7 * horizon_s:
            break
        world.publish(at, message(number, draw.choice(("r/1", "r/1", "r/2", f"r/{number}")), draw.choice((300, 900))))
    if not is_retained:
        for number in range(5):
            topic = {"topic": "bad", "topics": f"bad/{number}"}.get(poison, "r/1")
            nbytes = 5000 - number if poison == "size" else 300 + number
            world.publish(20.0 + 7 * number, message(-number, topic, nbytes, text=f"poison {poison}"))
    world.run(horizon_s)
    return world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.bad_links", description=__doc__)
    parser.add_argument("--outages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    is_good = True
    for seed in range(given.seed, given.seed + given.outages):
        world = outage(seed)
        if world.lost() or world.dropped or world.refused or len(world.outbox):
            is_good = False
            print(
                f"outage {seed}: {len(world.lost())} lost, {len(world.dropped)} dropped, {len(world.refused)} refused"
            )
    for link, poison in itertools.product(LINKS, POISONS):
        world = poisoned(link, poison, given.seed, horizon_s=3600.0)
        innocents = [n for n, (_, one) in world.published.items() if not world.is_poison(one)]
        waited = sorted(world.arrived[n] - world.published[n][0] for n in innocents if n in world.arrived)
        last = max((at - world.published[n][0] for n, at in world.dropped.items()), default=0.0)
        wronged = [n for n in innocents if n in world.dropped]
        is_good = is_good and not world.lost() and not wronged
        print(
            f"{link:11}{poison:9}{len(world.lost()) + len(wronged)} lost, poison dropped within {last:4.0f} s, "
            f"others waited {waited[len(waited) // 2]:.1f} s, 99 % {waited[len(waited) * 99 // 100]:3.0f} s, "
            f"{world.breaks} breaks, {world.duplicates} twice"
        )
    print("no innocent was lost" if is_good else "innocents were lost")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
