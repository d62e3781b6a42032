"""PURE. Which message breaks the connection: a broker that cannot stand one closes it, and gets it again, for ever.

A bad network looks the same. So what was first in line in some connections that broke at once is set aside; it is what
breaks them only if a connection lasts without it, and breaks as it is sent again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

POISON_AFTER = 3
SHORT_CONNECTION_S = 5.0
# The broker may be another one by then.
BELIEVED_S = 600.0
MAX_POISONED_TOPICS = 100

# What waits for its PUBACK: messages with topic and payload, by number. The first is sent first.
Waiting = MutableMapping[int, Any]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Messages to a topic from a size on: it may be the size, it may be the topic. at: of the trial, or the verdict."""

    topic: str
    nbytes: int
    at: float

    def taken_out(self, waiting: Waiting) -> dict[int, Any]:
        found = {number: one for number, one in list(waiting.items()) if self.is_of(one)}
        for number in found:
            del waiting[number]
        return found

    def is_in(self, waiting: Waiting) -> bool:
        return any(map(self.is_of, list(waiting.values())))

    def is_of(self, message: Any) -> bool:
        return message.topic == self.topic and len(self.topic.encode()) + len(message.payload) >= self.nbytes


def _kind(message: Any, now: float) -> _Kind:
    # The same answer, told once more, may differ by some bytes.
    return _Kind(message.topic, len(message.topic.encode()) + len(message.payload) - 1, now)


class Poison:
    """Of one connection. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._first: tuple[int | None, int] = (None, 0)
        self._aside: dict[int, Any] = {}
        self._held = 0
        # What is sent again, and whether that broke the connection.
        self._trial: _Kind | None = None
        self._is_guilty = False
        self._verdicts: OrderedDict[str, _Kind] = OrderedDict()

    def __len__(self) -> int:
        """How many are set aside."""
        return len(self._aside)

    def takes(self, topic: str, nbytes: int, now: float) -> bool:
        """Whether it is not like one that the broker has closed connections on."""
        verdict = self._verdicts.get(topic)
        return verdict is None or nbytes < verdict.nbytes or now - verdict.at >= BELIEVED_S

    def holds(self, message: Any) -> int | None:
        """Sets it aside too, if it is like what is set aside: its number, below 0. None: it is like nothing there.

        A request whose acknowledgement was lost comes again with each connection, and is answered with the same again.
        """
        if not any(_kind(one, 0.0).is_of(message) for one in list(self._aside.values())):
            return None
        self._held += 1
        self._aside[-self._held] = message
        return -self._held

    def broken(self, waiting: Waiting, lived_s: float, now: float) -> None:
        """A connection has broken that lived for so long. Changes nothing of what waits."""
        if self._trial is not None:
            self._is_guilty = now - self._trial.at < SHORT_CONNECTION_S and self._trial.is_in(waiting)
            if not self._is_guilty:
                self._trial = None
            return
        first = next(iter(waiting), None)
        known, count = self._first
        is_suspect = lived_s < SHORT_CONNECTION_S and first is not None
        self._first = (first, count + 1 if first == known else 1) if is_suspect else (None, 0)

    def sort_out(self, waiting: Waiting, now: float) -> list[tuple[int, str]]:
        """Before the next connection: takes out what is suspected. Gives numbers and topics of what is dropped."""
        dropped: list[tuple[int, str]] = []
        first, count = self._first
        if self._is_guilty and self._trial is not None:
            self._verdicts[self._trial.topic] = replace(self._trial, at=now)
            if len(self._verdicts) > MAX_POISONED_TOPICS:
                self._verdicts.popitem(last=False)
            dropped = [(number, one.topic) for number, one in self._trial.taken_out(waiting).items()]
        elif count >= POISON_AFTER and first is not None and first in waiting:
            self._aside |= _kind(waiting[first], now).taken_out(waiting)
            self._first = (None, 0)
        self._trial, self._is_guilty = None, False
        return dropped

    def lasted(self, waiting: Waiting, now: float) -> dict[int, Any]:
        """A connection lasts: what is to be sent again at once. Of one kind at a time, until the broker has it."""
        if not self._aside or (self._trial is not None and self._trial.is_in(waiting)):
            return {}
        self._trial = _kind(next(iter(self._aside.values())), now)
        return self._trial.taken_out(self._aside)
