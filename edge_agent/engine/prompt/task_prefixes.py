"""The prompts' beginnings that tasks share: decoded once, their cells shared by all requests, kept on disk.

Only text of configured tasks is held here, never what a caller sends. Where not all prefixes fit, those used least
recently make room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.prefix_store import PrefixStore
from edge_agent.engine.step.cache_sequence import CacheSequence

Tokens = tuple[int, ...]

# A request waits for its own task's prefix only if that shares at least this many tokens more.
_WORTH_WAITING = 8


@dataclass(slots=True, eq=False)
class Prefix:
    """Tokens that a sequence holds. decoding: the sequence while it is not complete, else None.

    users: running requests that share its cells. used_at: a count that grows with each use of any prefix.
    """

    tokens: Tokens
    seq_id: int
    decoding: CacheSequence | None = None
    is_awaited: bool = False
    users: int = 0
    used_at: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether it can be dropped."""
        return self.users == 0 and self.decoding is None


class TaskPrefixes:
    """At most one prefix per sequence id, and at most `max_cells` cells in all. store: None = nothing is on disk."""

    def __init__(self, llama: Llama, seq_ids: Iterable[int], *, max_cells: int, store: PrefixStore | None) -> None:
        self._llama = llama
        self._free_ids = list(seq_ids)
        self._max_cells = max_cells
        self._store = store
        self._of_task: dict[str, Tokens] = {}
        # In the order in which they are decoded while there is room.
        self._wanted: list[Tokens] = []
        self._resident: dict[Tokens, Prefix] = {}
        self._uses = 0

    @property
    def cells(self) -> int:
        """KV cells that the prefixes take at most; those with a common beginning take fewer."""
        return sum(len(prefix.tokens) for prefix in self._resident.values())

    @property
    def is_busy(self) -> bool:
        """Whether a prefix waits to be decoded."""
        return any(prefix.decoding for prefix in self._resident.values())

    def want(self, prefixes: Mapping[str, Sequence[int]]) -> None:
        """Sets the tasks' prefixes."""
        distinct = list(dict.fromkeys(tuple(tokens) for tokens in prefixes.values() if len(tokens)))
        # A prefix also serves as every shorter one that it begins with.
        longest = {
            tokens: max((other for other in distinct if other[: len(tokens)] == tokens), key=len)
            for tokens in distinct
            if len(tokens) <= self._max_cells
        }
        self._of_task = {task: longest[tuple(tokens)] for task, tokens in prefixes.items() if tuple(tokens) in longest}
        self._wanted = list(dict.fromkeys(longest.values()))
        if self._store is not None:
            self._store.keep_only(self._wanted)

    def start_missing(self, free_cells: int) -> None:
        """Drops prefixes that no task has any more, and starts missing ones that fit into the free cells."""
        self._drop([prefix for prefix in self._resident.values() if prefix.tokens not in self._wanted])
        for tokens in self._wanted:
            if tokens not in self._resident and self._free_ids and self._fits(tokens, free_cells):
                free_cells -= len(tokens)
                self._start(tokens)

    def find(self, task: str, prompt: Sequence[int], free_cells: int) -> tuple[Prefix | None, int] | None:
        """The prefix to share with a prompt, and how many tokens; None = wait, the task's own is being decoded."""
        prefix, shared = self._best(prompt)
        own = self._of_task.get(task)
        if own is None or _common(own, prompt, len(prompt) - 1) - shared < _WORTH_WAITING:
            return prefix, shared
        if own not in self._resident and not self._make_room_for(own, free_cells):
            return prefix, shared
        found = self._resident.get(own) or self._start(own)
        if found.decoding is None:
            return self._best(prompt)
        found.is_awaited = True
        return None

    def share(self, prefix: Prefix, seq_id: int, length: int) -> None:
        """Gives the empty sequence `seq_id` the first `length` tokens; `release` the prefix when its request ends."""
        self._uses += 1
        prefix.used_at = self._uses
        prefix.users += 1
        self._llama.share(prefix.seq_id, seq_id, length)

    def release(self, prefix: Prefix) -> None:
        prefix.users -= 1

    def decoding(self, *, awaited: bool) -> Iterator[CacheSequence]:
        """The sequences of prefixes that requests wait for, or of the others."""
        for prefix in self._resident.values():
            if prefix.decoding is not None and prefix.is_awaited is awaited:
                yield prefix.decoding

    def was_decoded(self, sequence: CacheSequence) -> None:
        """Call after each step that decoded tokens of a prefix."""
        if sequence.waiting:
            return
        prefix = self._resident[tuple(sequence.tokens)]
        prefix.decoding, prefix.is_awaited = None, False
        if self._store is not None:
            self._store.save(prefix.tokens, self._llama.state(prefix.seq_id))

    def drop_idle(self) -> None:
        """Drops all prefixes that no request shares, to make room; they come back when there is room again."""
        self._drop(list(self._resident.values()))

    def reset(self) -> None:
        """Call after the context was rebuilt. What was being decoded may be the cause, and is not tried again."""
        failed = {prefix.tokens for prefix in self._resident.values() if prefix.decoding}
        self._wanted = [tokens for tokens in self._wanted if tokens not in failed]
        self._of_task = {task: tokens for task, tokens in self._of_task.items() if tokens not in failed}
        self._free_ids.extend(prefix.seq_id for prefix in self._resident.values())
        self._resident.clear()

    def _start(self, tokens: Tokens) -> Prefix:
        """Restores a prefix from disk, or begins to decode it."""
        prefix = self._resident[tokens] = Prefix(tokens, self._free_ids.pop())
        state = self._store.load(tokens) if self._store is not None else None
        if state is not None and self._llama.restore(prefix.seq_id, state, len(tokens)):
            return prefix
        prefix.decoding = CacheSequence(prefix.seq_id, list(tokens))
        parent, shared = self._best(tokens)
        if parent is not None:
            self._llama.share(parent.seq_id, prefix.seq_id, shared)
            prefix.decoding.done = shared
        return prefix

    def _best(self, prompt: Sequence[int]) -> tuple[Prefix | None, int]:
        """The prefix that shares most tokens with a prompt, and how many; at least one is left to decode."""
        best, length = None, 0
        for prefix in self._resident.values():
            common = _common(prefix.tokens, prompt, len(prompt) - 1) if prefix.decoding is None else 0
            if common > length:
                best, length = prefix, common
        return best, length

    def _make_room_for(self, tokens: Tokens, free_cells: int) -> bool:
        """Drops the least recently used prefixes until these tokens fit; False = even all are not enough."""
        idle = sorted((prefix for prefix in self._resident.values() if prefix.is_idle), key=lambda one: one.used_at)
        victims: list[Prefix] = []
        while not self._fits(tokens, free_cells, victims) or not (self._free_ids or victims):
            if not idle:
                return False
            victims.append(idle.pop(0))
        self._drop(victims)
        return True

    def _fits(self, tokens: Tokens, free_cells: int, without: Sequence[Prefix] = ()) -> bool:
        freed = sum(len(prefix.tokens) for prefix in without)
        return len(tokens) <= min(free_cells, self._max_cells - self.cells) + freed

    def _drop(self, prefixes: Iterable[Prefix]) -> None:
        """Drops those of them that are idle."""
        for prefix in prefixes:
            if prefix.is_idle:
                del self._resident[prefix.tokens]
                self._llama.forget(prefix.seq_id)
                self._free_ids.append(prefix.seq_id)


def _common(left: Sequence[int], right: Sequence[int], limit: int) -> int:
    """How many tokens both begin with, at most `limit`."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if count >= limit or one != other:
            break
        count += 1
    return count
