"""PURE: the contents of free slots, byte by byte: what of a token is content, and whether a whole value can come of it.

A slot's state is immutable: feeding it gives the next one, so that trying a token costs nothing to undo.
"""

from __future__ import annotations

from typing import Protocol, Self


class Slot(Protocol):
    """What was written into a slot so far."""

    @property
    def can_end(self) -> bool:
        """Whether this is a whole value."""
        ...

    @property
    def must_end(self) -> bool:
        """Whether nothing can be added to it."""
        ...

    @property
    def least_characters(self) -> int:
        """Characters that it lacks at least to be a whole value."""
        ...

    def feed(self, data: bytes) -> tuple[Self, int] | None:
        """The state after these bytes, and how many of them are content: fewer than all = the slot ends there.

        None = they cannot be written here: no value that the schema allows begins so. What can be fed never leads to
        where nothing can.
        """
        ...
