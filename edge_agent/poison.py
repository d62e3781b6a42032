"""PURE. Which message breaks the connection: a broker that cannot stand one closes it, and gets it again, for ever.

A bad network looks the same. So what was first in line in some connections that broke at once is set aside; it is what
breaks them only if a connection lasts without it, and breaks as it is sent again; and one that has lasted for longer
without it than that one did, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

POISON_AFTER = 3
SHORT_CONNECTION_S = 5.0
# How often one is sent again: what crossed with the end of a connection is not why it ended.
BREAKS = 2
# The broker may be another one by then. Without what is retained nobody knows how the board is.
BELIEVED_S, BELIEVED_RETAINED_S = 600.0, 120.0
MAX_POISONED_TOPICS = 100

# What waits for its PUBACK: messages with topic and payload, by number. The first is sent first.
Waiting = MutableMapping[int, Any]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Messages to a topic from a size on: it may be the size, it may be the topic. until: of a verdict."""

    topic: str
    nbytes: int
    until: float

    def taken_out(self, waiting: Waiting) -> dict[int, Any]:
        found = {number: one for number, one in list(waiting.items()) if self.is_of(one)}
        for number in found:
            del waiting[number]
        return found

    def is_of(self, message: Any) -> bool:
        return message.topic == self.topic and _nbytes(message) >= self.nbytes


def _kind(message: Any, now: float) -> _Kind:
    # The same answer, told once more, may differ by some bytes.
    return _Kind(message.topic, _nbytes(message) - 1, now + BELIEVED_S)


def _suspected(message: Any, now: float) -> _Kind:
    """What goes with it: of what is retained all, for the latest must be the last."""
    return _Kind(message.topic, 0, now + BELIEVED_RETAINED_S) if message.retain else _kind(message, now)


def _nbytes(message: Any) -> int:
    return len(message.topic.encode()) + len(message.payload)


@dataclass(slots=True)
class _Trial:
    """Of one message, which is sent again. breaks: how often the connection broke then; lived_s: the longest of these.

    What is retained is made anew for each connection, and is the same for all that.
    """

    message: Any
    at: float
    breaks: int = 0
    lived_s: float = 0.0
    is_broken: bool = False

    def is_of(self, message: Any) -> bool:
        is_same = message.retain or message.payload == self.message.payload
        return bool(message.topic == self.message.topic and is_same)

    def number(self, waiting: Waiting) -> int | None:
        """None: the broker has it."""
        return next((number for number, one in list(waiting.items()) if self.is_of(one)), None)


class Poison:
    """Of one connection. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._first: tuple[int | None, int] = (None, 0)
        self._aside: dict[int, Any] = {}
        self._held = 0
        self._trial: _Trial | None = None
        self._verdicts: OrderedDict[str, _Kind] = OrderedDict()

    def __len__(self) -> int:
        """How many are set aside."""
        return len(self._aside)

    def takes(self, topic: str, nbytes: int, now: float) -> bool:
        """Whether it is not like one that the broker has closed connections on."""
        verdict = self._verdicts.get(topic)
        return verdict is None or nbytes < verdict.nbytes or now >= verdict.until

    def holds(self, message: Any) -> int | None:
        """Sets it aside too, if it is like what is set aside: its number, below 0. None: it is like nothing there.

        A request whose acknowledgement was lost comes again with each connection, and is answered with the same again.
        """
        if not any(_suspected(one, 0.0).is_of(message) for one in list(self._aside.values())):
            return None
        self._held += 1
        self._set_aside({-self._held: message})
        return -self._held

    def _set_aside(self, messages: dict[int, Any]) -> None:
        """Of what is retained on a topic, only the latest: it must not be followed by what it has replaced."""
        latest: dict[int | str, tuple[int, Any]] = {}
        for number, one in [*self._aside.items(), *messages.items()]:
            key = one.topic if one.retain else number
            latest.pop(key, None)
            latest[key] = (number, one)
        self._aside = dict(latest.values())

    def broken(self, waiting: Waiting, lived_s: float, now: float) -> None:
        """A connection has broken that lived for so long. Changes nothing of what waits."""
        trial = self._trial
        if trial is not None and trial.number(waiting) is None:
            is_innocent = SHORT_CONNECTION_S <= lived_s < trial.lived_s + SHORT_CONNECTION_S
            # Delivered; or a connection that was no shorter than the others has ended without it, too.
            if trial.number(self._aside) is None or is_innocent:
                trial = self._trial = None
        if trial is not None and trial.number(waiting) is not None and now - trial.at < SHORT_CONNECTION_S:
            trial.breaks, trial.is_broken = trial.breaks + 1, True
            trial.lived_s = max(trial.lived_s, lived_s)
            return
        first = next(iter(waiting), None)
        known, count = self._first
        is_suspect = lived_s < SHORT_CONNECTION_S and first is not None
        self._first = (first, count + 1 if first == known else 1) if is_suspect else (None, 0)

    def sort_out(self, waiting: Waiting, now: float) -> list[tuple[int, str]]:
        """Before the next connection: takes out what is suspected. Gives numbers and topics of what is dropped."""
        trial, (first, count) = self._trial, self._first
        if trial is not None and trial.is_broken:
            trial.is_broken = False
            if trial.breaks >= BREAKS:
                return self._condemn(_suspected(trial.message, now), waiting)
            number = trial.number(waiting)
            if number is not None:
                one = waiting.pop(number)
                is_replaced = one.retain and any(other.topic == one.topic for other in waiting.values())
                self._set_aside({} if is_replaced else {number: one})
        elif count >= POISON_AFTER and first is not None and first in waiting:
            self._set_aside(_suspected(waiting[first], now).taken_out(waiting))
            self._first = (None, 0)
        return []

    def _condemn(self, kind: _Kind, waiting: Waiting) -> list[tuple[int, str]]:
        self._trial = None
        self._verdicts[kind.topic] = kind
        if len(self._verdicts) > MAX_POISONED_TOPICS:
            self._verdicts.popitem(last=False)
        return [(number, kind.topic) for number in (*kind.taken_out(waiting), *kind.taken_out(self._aside))]

    def lasted(self, waiting: Waiting, lives_s: float, now: float) -> tuple[int, Any] | None:
        """A connection lasts: what is to be sent again at once; one at a time, until the broker has it."""
        trial = self._trial
        if not self._aside or (trial is not None and trial.number(waiting) is not None):
            return None
        if lives_s < SHORT_CONNECTION_S + (trial.lived_s if trial is not None and trial.breaks else 0.0):
            return None
        # What has broken one is tried to its end, or two of them would take turns for ever.
        number = trial.number(self._aside) if trial is not None else None
        if number is None:
            number = min(self._aside, key=lambda number: _nbytes(self._aside[number]))
        message = self._aside.pop(number)
        if self._trial is not None and self._trial.is_of(message):
            self._trial.message, self._trial.at = message, now
        else:
            self._trial = _Trial(message, now)
        return number, message

    def take_out(self, waiting: Waiting, is_meant: Callable[[Any], bool]) -> list[tuple[int, str]]:
        """Some of what waits and of what is set aside. Gives numbers and topics."""
        found = []
        for messages in (waiting, self._aside):
            for number, one in list(messages.items()):
                if is_meant(one):
                    del messages[number]
                    found.append((number, one.topic))
        return found

    def let_go(self) -> list[tuple[int, Any]]:
        """What is set aside, in the order of its coming, and is so no more."""
        aside, self._aside = list(self._aside.items()), {}
        return aside
