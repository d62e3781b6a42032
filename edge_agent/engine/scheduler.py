"""PURE: which requests run, and which tokens go into the next batch.

Continuous batching at the level of one step (Orca, OSDI 2022; chunked prefill: Sarathi-Serve, OSDI 2024): requests join
and leave between any two steps, and a long prompt never stops those that already write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Want:
    """Tokens that one sequence waits to have decoded; `outputs` are the offsets after which logits are wanted."""

    key: int
    count: int
    outputs: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Take:
    """The first `count` tokens of a Want go into the batch."""

    key: int
    count: int


def next_batch(wants: Iterable[Want], *, tokens: int, outputs: int) -> list[Take]:
    """Takes in the order of the wants, until the token budget or the rows for logits are used up.

    The caller orders them: sequences that write first (they are one token each and a user waits), then label branches,
    then prompts by arrival.
    """
    batch = []
    for want in wants:
        count = min(want.count, tokens)
        inside = sum(1 for offset in want.outputs if offset < count)
        if inside > outputs:
            # Stop before the first output that has no row left.
            count = sorted(want.outputs)[outputs]
            inside = outputs
        if count:
            batch.append(Take(want.key, count))
            tokens -= count
            outputs -= inside
        if not tokens:
            break
    return batch


@dataclass(frozen=True, slots=True)
class Reservation:
    """KV cells that a request may need at worst, beyond those it shares with a pinned prefix."""

    key: int
    cells: int


class Admission:
    """First come, first served; a request starts only when its worst case fits, so that a full cache cannot happen.

    The head of the line keeps its place until it fits: what runs ends in bounded time, so it will.
    """

    def __init__(self, *, max_active: int, cells: int) -> None:
        self._max_active = max_active
        self._cells = cells
        self._waiting: list[int] = []
        self._active: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> int:
        return len(self._active)

    def free_cells(self, pinned_cells: int) -> int:
        return self._cells - pinned_cells - sum(self._active.values())

    def offer(self, key: int) -> None:
        self._waiting.append(key)

    def head(self) -> int | None:
        """The request that may start next, if there is a place."""
        return self._waiting[0] if self._waiting and len(self._active) < self._max_active else None

    def start(self, reservation: Reservation, pinned_cells: int) -> bool:
        """Whether the head started: False if its cells are not free now."""
        if reservation.cells > self.free_cells(pinned_cells):
            return False
        self._waiting.remove(reservation.key)
        self._active[reservation.key] = reservation.cells
        return True

    def put_back(self, key: int) -> None:
        """A request that had started waits again, before those that never did."""
        if self._active.pop(key, None) is not None:
            self._waiting.insert(0, key)

    def leave(self, key: int) -> None:
        """The request has ended, or never began."""
        if self._active.pop(key, None) is None and key in self._waiting:
            self._waiting.remove(key)
