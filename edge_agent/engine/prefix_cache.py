"""PURE: which sequence ids hold which token prefixes.

A pinned prefix is the text of a configured task: it is decoded once and its cells are shared by every request whose
prompt begins with the same tokens. Nothing that a caller sends is ever kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Prefix:
    """Tokens that a sequence id holds, or will hold once decoded.

    users: running requests that share its cells: until they end the cells stay taken.
    """

    tokens: tuple[int, ...]
    seq_id: int
    is_ready: bool = False
    users: int = 0


class PrefixCache:
    """At most one prefix per sequence id, at most `max_cells` cells in all."""

    def __init__(self, seq_ids: Iterable[int], *, max_cells: int) -> None:
        self._free = list(seq_ids)
        self._max_cells = max_cells
        self._capacity = len(self._free)
        self._wanted: list[tuple[int, ...]] = []
        self._resident: list[Prefix] = []

    @property
    def cells(self) -> int:
        """KV cells that the prefixes may take; those that share a beginning take fewer."""
        return sum(len(prefix.tokens) for prefix in self._resident)

    def want(self, prefixes: Iterable[Sequence[int]]) -> int:
        """Pin these from now on, the first ones first; gives how many do not fit the bounds and are left out."""
        distinct = list(dict.fromkeys(tuple(prefix) for prefix in prefixes if len(prefix)))
        # The tokens of one prefix serve another that is its beginning.
        needed = [
            prefix
            for prefix in distinct
            if not any(other != prefix and other[: len(prefix)] == prefix for other in distinct)
        ]
        self._wanted, cells = [], 0
        for prefix in needed:
            if len(self._wanted) < self._capacity and cells + len(prefix) <= self._max_cells:
                self._wanted.append(prefix)
                cells += len(prefix)
        return len(needed) - len(self._wanted)

    def next_missing(self, free_cells: int) -> Prefix | None:
        """A prefix that is wanted, not there yet and fits now: decode it into its sequence id, then call `ready`."""
        resident = {prefix.tokens for prefix in self._resident}
        for tokens in self._wanted:
            if tokens not in resident and len(tokens) <= free_cells and self._free:
                prefix = Prefix(tokens, self._free.pop())
                self._resident.append(prefix)
                return prefix
        return None

    def ready(self, prefix: Prefix) -> None:
        prefix.is_ready = True

    def give_up(self, prefix: Prefix) -> None:
        """Decoding it failed: it is not wanted any more."""
        self._wanted = [tokens for tokens in self._wanted if tokens != prefix.tokens]

    def match(self, tokens: Sequence[int]) -> tuple[Prefix | None, int]:
        """The prefix that shares most tokens with this prompt, and how many; at least one token is left to decode."""
        best, length = None, 0
        for prefix in self._resident:
            if prefix.is_ready and (common := _common(prefix.tokens, tokens, len(tokens) - 1)) > length:
                best, length = prefix, common
        return best, length

    def parent(self, prefix: Prefix) -> tuple[Prefix | None, int]:
        """As `match`, for a prefix that is to be decoded: all of its tokens may come from another."""
        best, length = None, 0
        for other in self._resident:
            if other is not prefix and other.is_ready:
                common = _common(other.tokens, prefix.tokens, len(prefix.tokens) - 1)
                if common > length:
                    best, length = other, common
        return best, length

    def drop_unwanted(self) -> list[int]:
        """Sequence ids of prefixes that are wanted no more and used by nobody: forget their cells."""
        wanted = set(self._wanted)
        return self._drop([prefix for prefix in self._resident if prefix.tokens not in wanted])

    def drop_idle(self) -> list[int]:
        """Sequence ids of all prefixes that nobody uses, to make room; they come back when there is room again."""
        return self._drop(self._resident)

    def drop_all(self) -> None:
        """The context was rebuilt: nothing is held any more."""
        self._free.extend(prefix.seq_id for prefix in self._resident)
        self._resident = []

    def _drop(self, candidates: Iterable[Prefix]) -> list[int]:
        dropped = [prefix for prefix in candidates if prefix.users == 0 and prefix.is_ready]
        self._resident = [prefix for prefix in self._resident if prefix not in dropped]
        seq_ids = [prefix.seq_id for prefix in dropped]
        self._free.extend(seq_ids)
        return seq_ids


def _common(left: Sequence[int], right: Sequence[int], limit: int) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if count >= limit or one != other:
            break
        count += 1
    return count
