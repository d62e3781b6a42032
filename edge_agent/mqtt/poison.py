"""PURE. Which message breaks the connection: a broker that cannot stand one closes it, and gets it again, for ever.

A bad network looks the same. So what is first in line as connections break, again and again, is set aside, which costs
only time, and tried at moments that are drawn by lot: it is dropped once it can be no chance that they broke just then.

Whether it is the topic, the size or the content, nobody knows: what is like it waits with it, and is tried before it.
What passes lets the others go; breaks that may well be chance do so, too.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from edge_agent.mqtt.break_odds import PAUSE_S, Calm, Odds
from edge_agent.mqtt.first_in_line import FirstInLine, Waiting
from edge_agent.mqtt.suspects import Line, Member, nbytes

# As likely as that, breaks say nothing of what is like it.
MAYBE_CHANCE = 0.5
# So many different ones, and none that passed: what is like them is refused.
KIND = 10
# The broker may be another one by then. Without what is retained nobody knows how the board is.
BELIEVED_S, BELIEVED_RETAINED_S = 600.0, 120.0


@dataclass(slots=True)
class _Trial:
    """key: paho's number; ended_at: when the connection broke that it was out on."""

    line: Line
    member: Member
    key: int
    at: float
    ended_at: float = 0.0


class Poison:
    """Of one connection. Times are seconds of the monotonic clock. draw: a number from 0 to 1."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._first = FirstInLine()
        self._lines: list[Line] = []
        self._trial: _Trial | None = None
        self._released: dict[int, Any] = {}
        self._calm = Calm()
        self._quiet_until_s = 0.0

    def __len__(self) -> int:
        """How many are set aside."""
        return sum(len(line.members) for line in self._lines) + len(self._released)

    def takes(self, message: Any, now: float) -> bool:
        """Whether it is not like those that the broker has closed connections on."""
        return not any(now < line.until and line.is_of(message) for line in self._lines)

    def doubts(self, topic: str) -> bool:
        """Whether something there is suspected: nothing is sent there that nobody would notice to break connections."""
        return any(line.topic == topic for line in self._lines)

    def holds(self, number: int, message: Any) -> bool:
        """Sets it aside too, if it is like what is.

        A request whose acknowledgement was lost comes again with each connection, and is answered with the same again.
        """
        line = next((line for line in self._lines if line.is_of(message)), None)
        if line is not None:
            line.add(Member(number, message, Odds(self._calm)))
            line.due_s = min(line.due_s, self._after(PAUSE_S[0]))
        return line is not None

    def connected(self, waiting: Waiting, now: float) -> None:
        self._calm.begin(now)
        self._first.connected(waiting)

    def is_in_doubt(self, waiting: Waiting) -> bool:
        return self._first.is_in_doubt(waiting)

    def answered(self) -> None:
        self._first.answered()

    def broken(self, waiting: Waiting, now: float) -> None:
        """Changes nothing of what waits."""
        if self._trial is not None:
            self._trial.ended_at = now
        else:
            self._calm.end(now, breaks=1)
            self._first.broken(waiting)

    def passed(self, key: int, now: float) -> None:
        """The broker has it."""
        self._first.answered()
        trial = self._trial
        if trial is None or trial.key != key:
            return
        self._trial = None
        self._calm.begin(now)
        self._lines.remove(trial.line)
        self._released |= trial.line.let_go()
        for member in trial.line.members.values():
            self._new_line(member.message, is_lone=True).add(member)

    def _new_line(self, message: Any, *, is_lone: bool = False) -> Line:
        # The same answer, told once more, may differ by some bytes.
        least = 0 if message.retain else nbytes(message) - 1
        line = Line(message.topic, least, Odds(self._calm), self._after(PAUSE_S[0]), is_lone)
        self._lines.append(line)
        return line

    def _after(self, pause_s: float) -> float:
        return self._calm.seconds + pause_s * (1.0 + self._draw())

    def sort_out(
        self, waiting: MutableMapping[int, Any], numbers: MutableMapping[int, int], now: float
    ) -> list[tuple[int, str]]:
        """Before the next connection: takes out what is suspected. Gives numbers and topics of what is dropped.

        numbers: the senders', by paho's.
        """
        trial, self._trial = self._trial, None
        if trial is not None:
            del waiting[trial.key], numbers[trial.key]
            return self._has_broken(trial, now)
        self._lines = [line for line in self._lines if line.members or now - line.broke_at < 2 * BELIEVED_S]
        first = self._first.suspect(waiting)
        if first is not None:
            line = self._new_line(waiting[first])
            for key in [key for key, one in waiting.items() if line.is_of(one)]:
                line.add(Member(numbers.pop(key), waiting.pop(key), Odds(self._calm), key == first))
        return []

    def _has_broken(self, trial: _Trial, now: float) -> list[tuple[int, str]]:
        line, member = trial.line, trial.member
        line.culprits += member.odds.breaks == 0
        for odds in (line.odds, member.odds):
            odds.broke(trial.ended_at - trial.at)
        line.broke_at, member.is_suspect = now, True
        is_retained = member.message.retain
        if not (is_retained and line.members):
            line.members[member.number] = member
        dropped = [number for number, one in line.members.items() if line.is_proven(one.odds)]
        if (is_retained or line.culprits >= KIND) and line.odds.are_proof:
            dropped = list(line.members)
            line.until = now + (BELIEVED_RETAINED_S if is_retained else BELIEVED_S)
        for number in dropped:
            del line.members[number]
        if line.odds.chance > MAYBE_CHANCE:
            self._released |= line.let_go()
        line.due_s = self._after(PAUSE_S[0] if line.others else line.odds.pause_s)
        self._quiet_until_s = self._after(PAUSE_S[0])
        return [(number, line.topic) for number in dropped]

    def send_again(self, send: Callable[[int, Any], int | None], waiting: Waiting, at_once: int, now: float) -> None:
        """All that is suspected no more, and what is to be tried now. send: gives paho's number.

        at_once: while so many wait, what is sent may have to wait, too.
        """
        released, self._released = self._released, {}
        for number, message in released.items():
            send(number, message)
        line = min((line for line in self._lines if line.members), key=lambda line: line.due_s, default=None)
        if line is None or not self._calm.is_now or len(waiting) >= at_once:
            return
        if self._calm.seconds_at(now) >= max(line.due_s, self._quiet_until_s):
            candidates = line.others or list(line.members.values())[:1]
            member = candidates[int(self._draw() * len(candidates))]
            del line.members[member.number]
            key = send(member.number, member.message)
            if key is not None:
                self._calm.end(now)
                self._trial = _Trial(line, member, key, now)

    def take_out(self, is_meant: Callable[[Any], bool]) -> list[tuple[int, str]]:
        """Some of what is set aside. Gives numbers and topics."""
        found = [(line, one) for line in self._lines for one in line.members.values() if is_meant(one.message)]
        for line, one in found:
            del line.members[one.number]
        return [(one.number, line.topic) for line, one in found]

    def last(self) -> tuple[int, Any] | None:
        """At the end: what is set aside, one by one, the least suspected first."""
        line = min((line for line in self._lines if line.members), key=lambda line: line.odds.breaks, default=None)
        if line is None:
            return None
        member = next(iter(line.others or line.members.values()))
        del line.members[member.number]
        return member.number, member.message
