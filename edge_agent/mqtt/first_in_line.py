"""PURE. Which message connections break on, if it is one: what is sent first, and never acknowledged.

What comes behind it crosses with the end of the connection, and so do acknowledgements of what was before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

# That are sent at once, and wait for their PUBACK: what stands behind so many has not been out.
MAX_IN_FLIGHT = 20
# Breaks in a row, with the same one first.
DOUBTED_AFTER, SUSPECTED_AFTER = 3, 4

# What waits for its PUBACK: messages with topic, payload and retain, by paho's number. The first is sent first.
Waiting = Mapping[int, Any]


class FirstInLine:
    """Of one connection after the other."""

    def __init__(self) -> None:
        self._key: int | None = None
        self._breaks = 0
        # Those that came after the broker had said something. Where nothing at all comes back, it is not the message.
        self._answered_breaks = 0
        self._is_answered = False
        self._one_by_one: set[int] = set()

    def connected(self, waiting: Waiting) -> None:
        self._is_answered = False
        self._one_by_one = set(islice(waiting, MAX_IN_FLIGHT)) if self._breaks >= DOUBTED_AFTER else set()

    def is_in_doubt(self, waiting: Waiting) -> bool:
        """Whether what waits is to be sent one by one: then a connection breaks on the first, or for another reason."""
        return any(key in waiting for key in self._one_by_one)

    def answered(self) -> None:
        """The broker has said something on this connection."""
        self._is_answered = True

    def broken(self, waiting: Waiting) -> None:
        first = next(iter(waiting), None)
        if first != self._key:
            self._key, self._breaks, self._answered_breaks = first, 0, 0
        self._breaks += 1
        self._answered_breaks += self._is_answered

    def suspect(self, waiting: Waiting) -> int | None:
        """Its number; only once."""
        key = self._key
        if key is None or key not in waiting or self._answered_breaks < SUSPECTED_AFTER:
            return None
        self._key, self._breaks, self._answered_breaks = None, 0, 0
        return key
