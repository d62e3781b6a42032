"""PURE: which sequence ids hold which token prefixes.

A prefix is the text of a configured task: it is decoded once and its cells are shared by every request whose prompt
begins with the same tokens, token by token. Nothing that a caller sends is ever kept here. Where not all prefixes fit,
those used least recently make room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]

# A request that shares so many tokens less than it could does not wait for a prefix of its own.
_WORTH_WAITING = 8


@dataclass(slots=True, eq=False)
class Prefix:
    """Tokens that a sequence id holds, or will hold once decoded.

    users: running requests that share its cells: until they end the cells stay taken.
    used_at: a count that grows with each use of any prefix.
    """

    tokens: Tokens
    seq_id: int
    is_ready: bool = False
    users: int = 0
    used_at: int = 0


class PrefixCache:
    """At most one prefix per sequence id, at most `max_cells` cells in all."""

    def __init__(self, seq_ids: Iterable[int], *, max_cells: int) -> None:
        self._free = list(seq_ids)
        self._max_cells = max_cells
        self._of_task: dict[str, Tokens] = {}
        # In the order in which they are decoded while there is room.
        self._wanted: list[Tokens] = []
        self._resident: dict[Tokens, Prefix] = {}
        self._uses = 0

    @property
    def cells(self) -> int:
        """KV cells that the prefixes may take; those that share a beginning take fewer."""
        return sum(len(prefix.tokens) for prefix in self._resident.values())

    @property
    def wanted(self) -> Sequence[Tokens]:
        return self._wanted

    def want(self, prefixes: Mapping[str, Sequence[int]]) -> None:
        """These are the tasks' prefixes from now on."""
        distinct = list(dict.fromkeys(tuple(tokens) for tokens in prefixes.values() if len(tokens)))
        # The tokens of one prefix serve another that is its beginning.
        longest = {
            tokens: max((other for other in distinct if other[: len(tokens)] == tokens), key=len)
            for tokens in distinct
            if len(tokens) <= self._max_cells
        }
        self._of_task = {task: longest[tuple(tokens)] for task, tokens in prefixes.items() if tuple(tokens) in longest}
        self._wanted = list(dict.fromkeys(longest.values()))

    def next_missing(self, free_cells: int) -> Prefix | None:
        """A prefix that is wanted, not there and fits beside the others: fill its sequence id, then call `ready`."""
        if not self._free:
            return None
        for tokens in self._wanted:
            if tokens not in self._resident and self._fits(tokens, free_cells):
                return self.add(tokens)
        return None

    def missing_for(self, task: str, prompt: Sequence[int], shared: int) -> Tokens | None:
        """The prefix of this task, if with it the prompt would share clearly more than `shared` tokens."""
        tokens = self._of_task.get(task)
        if tokens is None or _common(tokens, prompt, len(prompt) - 1) - shared < _WORTH_WAITING:
            return None
        return tokens

    def resident(self, tokens: Tokens) -> Prefix | None:
        """Ready or about to be."""
        return self._resident.get(tokens)

    def victims(self, tokens: Tokens, free_cells: int) -> list[Prefix] | None:
        """Who must go before these tokens fit, the least recently used first; None if that is not enough."""
        idle = sorted((prefix for prefix in self._resident.values() if _is_idle(prefix)), key=lambda one: one.used_at)
        victims: list[Prefix] = []
        while not self._fits(tokens, free_cells, victims) or not (self._free or victims):
            if not idle:
                return None
            victims.append(idle.pop(0))
        return victims

    def add(self, tokens: Tokens) -> Prefix:
        """Take a sequence id for these tokens; there is one once the victims are dropped."""
        prefix = self._resident[tokens] = Prefix(tokens, self._free.pop())
        return prefix

    def ready(self, prefix: Prefix) -> None:
        prefix.is_ready = True

    def give_up(self, prefix: Prefix) -> None:
        """Decoding it failed: it is not wanted any more."""
        self._wanted = [tokens for tokens in self._wanted if tokens != prefix.tokens]
        self._of_task = {task: tokens for task, tokens in self._of_task.items() if tokens != prefix.tokens}

    def match(self, tokens: Sequence[int]) -> tuple[Prefix | None, int]:
        """The prefix that shares most tokens with this prompt, and how many; at least one token is left to decode."""
        best, length = None, 0
        for prefix in self._resident.values():
            if prefix.is_ready and (common := _common(prefix.tokens, tokens, len(tokens) - 1)) > length:
                best, length = prefix, common
        return best, length

    def use(self, prefix: Prefix) -> None:
        """A request shares it now; `release` when it ends."""
        self._uses += 1
        prefix.used_at = self._uses
        prefix.users += 1

    def release(self, prefix: Prefix) -> None:
        prefix.users -= 1

    def drop_unwanted(self) -> list[int]:
        """Sequence ids of prefixes that are wanted no more and used by nobody: forget their cells."""
        wanted = set(self._wanted)
        return self.drop([prefix for prefix in self._resident.values() if prefix.tokens not in wanted])

    def drop_idle(self) -> list[int]:
        """Sequence ids of all prefixes that nobody uses, to make room; they come back when there is room again."""
        return self.drop(list(self._resident.values()))

    def drop_all(self) -> None:
        """The context was rebuilt: nothing is held any more."""
        self._free.extend(prefix.seq_id for prefix in self._resident.values())
        self._resident.clear()

    def drop(self, prefixes: Iterable[Prefix]) -> list[int]:
        """Sequence ids of those of them that nobody uses."""
        dropped = [prefix for prefix in prefixes if _is_idle(prefix)]
        for prefix in dropped:
            del self._resident[prefix.tokens]
        seq_ids = [prefix.seq_id for prefix in dropped]
        self._free.extend(seq_ids)
        return seq_ids

    def _fits(self, tokens: Tokens, free_cells: int, without: Sequence[Prefix] = ()) -> bool:
        freed = sum(len(prefix.tokens) for prefix in without)
        return len(tokens) <= min(free_cells, self._max_cells - self.cells) + freed


def _is_idle(prefix: Prefix) -> bool:
    return prefix.users == 0 and prefix.is_ready


def _common(left: Sequence[int], right: Sequence[int], limit: int) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if count >= limit or one != other:
            break
        count += 1
    return count
