"""The prefix that all prompts of a task have: decoded once, its cells shared by all requests, kept on disk.

Only text of configured tasks is held here, never what a caller sends. Where not all prefixes fit, those used least
recently make room.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.engine.llama import Llama, common_length

log = logging.getLogger(__name__)

_HASH_BYTES = 32
Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Prefix:
    """Tokens that a sequence holds."""

    tokens: Tokens
    seq_id: int
    users: int = 0  # The running requests that share its cells.
    used_at: int = 0  # A count that grows with each use of any prefix.


class TaskPrefixes:
    """At most one prefix per sequence id, and at most `max_cells` cells in all; without a store, nothing is on disk."""

    def __init__(self, llama: Llama, seq_ids: Iterable[int], *, max_cells: int, store: PrefixStore | None) -> None:
        self._llama = llama
        self._free_ids = list(seq_ids)
        self._max_cells = max_cells
        self._store = store
        self._tokens_by_task: dict[str, Tokens] = {}
        self._resident: dict[Tokens, Prefix] = {}
        self._uses = 0

    @property
    def cells(self) -> int:
        """KV cells that the prefixes take at most; those with a common beginning take fewer."""
        return sum(len(tokens) for tokens in self._resident)

    def set_prefixes(self, prefixes: Mapping[str, Sequence[int]]) -> None:
        """Sets the tasks' prefixes; those that no task has any more are dropped once no request uses them."""
        self._tokens_by_task = {task: tuple(tokens) for task, tokens in prefixes.items() if tokens}
        self._drop([prefix for prefix in self._resident.values() if prefix.tokens not in self._tokens_by_task.values()])
        if self._store is not None:
            self._store.keep_only(self._tokens_by_task.values())

    def decode(self, unreserved_cells: int, *, threads: int) -> None:
        """Decodes or restores as many as there is room for, before the first request."""
        for tokens in dict.fromkeys(self._tokens_by_task.values()):
            if not self._fits(tokens, unreserved_cells) or self._restore(tokens, unreserved_cells):
                continue
            parent, shared = self._best(tokens)
            prefix = self._add(tokens)
            if parent is not None:
                self._llama.share(parent.seq_id, prefix.seq_id, shared)
            self._llama.extend(prefix.seq_id, tokens[shared:], threads=threads)
            self._save(prefix)

    def find_or_restore(self, task: str, prompt: Sequence[int], unreserved_cells: int) -> tuple[Prefix | None, int]:
        """The prefix to share with a prompt, and how many tokens; at least one is left to decode."""
        task_tokens = self._tokens_by_task.get(task)
        if task_tokens is not None and task_tokens not in self._resident:
            self._restore(task_tokens, unreserved_cells)
        return self._best(prompt)

    def keep(self, task: str, prompt: Sequence[int], seq_id: int, unreserved_cells: int) -> None:
        """Keeps the task's prefix, if it is missing, from a sequence that holds this prompt."""
        task_tokens = self._tokens_by_task.get(task)
        if task_tokens is None or task_tokens in self._resident:
            return
        shared = common_length(task_tokens, prompt)
        # The last token of a prefix may differ where the text continues.
        if shared < max(len(task_tokens) - 1, 1):
            return
        task_tokens = self._tokens_by_task[task] = task_tokens[:shared]
        if task_tokens in self._resident or not self._make_room_for(task_tokens, unreserved_cells):
            return
        prefix = self._add(task_tokens)
        self._llama.share(seq_id, prefix.seq_id, shared)
        self._save(prefix)

    def share(self, prefix: Prefix, seq_id: int, length: int) -> None:
        """Gives the empty sequence `seq_id` the first `length` tokens; `release` the prefix when its request ends."""
        self._uses += 1
        prefix.used_at = self._uses
        prefix.users += 1
        self._llama.share(prefix.seq_id, seq_id, length)

    def release(self, prefix: Prefix) -> None:
        prefix.users -= 1
        if prefix.tokens not in self._tokens_by_task.values():
            self._drop([prefix])

    def drop_idle(self) -> None:
        """Drops all prefixes that no request shares, to make room; they come back with requests of their tasks."""
        self._drop(list(self._resident.values()))

    def _add(self, tokens: Tokens) -> Prefix:
        prefix = self._resident[tokens] = Prefix(tokens, self._free_ids.pop())
        return prefix

    def _save(self, prefix: Prefix) -> None:
        if self._store is not None:
            self._store.save(prefix.tokens, self._llama.state(prefix.seq_id))

    def _restore(self, tokens: Tokens, unreserved_cells: int) -> bool:
        """Whether the prefix was on disk and there is room for it."""
        state = None if self._store is None else self._store.load(tokens)
        if state is None or not self._make_room_for(tokens, unreserved_cells):
            return False
        prefix = self._add(tokens)
        if not self._llama.restore(prefix.seq_id, state, len(tokens)):
            self._drop([prefix])
            return False
        return True

    def _best(self, prompt: Sequence[int]) -> tuple[Prefix | None, int]:
        """The prefix that shares most tokens with a prompt, and how many."""
        best, length = None, 0
        for prefix in self._resident.values():
            common = min(common_length(prefix.tokens, prompt), len(prompt) - 1)
            if common > length:
                best, length = prefix, common
        return best, length

    def _make_room_for(self, tokens: Tokens, unreserved_cells: int) -> bool:
        """Drops the least recently used prefixes until these tokens fit; False if they do not fit even then."""
        unused = (prefix for prefix in self._resident.values() if not prefix.users)
        idle = sorted(unused, key=lambda prefix: prefix.used_at)
        while idle and len(tokens) <= self._max_cells and not self._fits(tokens, unreserved_cells):
            self._drop([idle.pop(0)])
        return self._fits(tokens, unreserved_cells)

    def _fits(self, tokens: Tokens, unreserved_cells: int) -> bool:
        return bool(self._free_ids) and self.cells + len(tokens) <= min(unreserved_cells, self._max_cells)

    def _drop(self, prefixes: Iterable[Prefix]) -> None:
        """Drops those of them that no request shares."""
        for prefix in prefixes:
            if not prefix.users:
                del self._resident[prefix.tokens]
                self._llama.forget(prefix.seq_id)
                self._free_ids.append(prefix.seq_id)


class PrefixStore:
    """Decoded prefixes on disk. A restart then does not decode them, which takes 16 s for 300 tokens on a Pi 4.

    One file per prefix: a hash, then the state as llama.cpp gave it. llama.cpp restores any bytes that it is given
    (CVE-2026-43629), so the hash is over the state and all facts that it depends on. No disk error leaves this class.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """`key` says all that a state depends on besides the tokens: model, build, sizes and kinds of the cache."""
        self._folder = folder
        self._key = key

    def load(self, tokens: Sequence[int]) -> bytes | None:
        """The state of these tokens, unless there is none or it is not as it was written."""
        path = self._path(tokens)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        state = content[_HASH_BYTES:]
        if content[:_HASH_BYTES] == self._hash(tokens, state):
            return state
        log.info("prefix %s was changed or damaged, it is decoded again", path.name)
        return None

    def save(self, tokens: Sequence[int], state: bytes) -> None:
        """Keeps the state of these tokens. It is not synced: a damaged file is only decoded again."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(tokens).write_bytes(self._hash(tokens, state) + state)
        except OSError as error:
            log.info("a prefix is not kept: %s", error)

    def keep_only(self, prefixes: Iterable[Sequence[int]]) -> None:
        """Removes the files of all other prefixes."""
        wanted = {self._path(tokens) for tokens in prefixes}
        try:
            for path in set(self._folder.glob("*.prefix")) - wanted:
                path.unlink()
        except OSError as error:
            log.info("a prefix cannot be removed: %s", error)

    def _path(self, tokens: Sequence[int]) -> Path:
        return self._folder / f"{self._hash(tokens, b'').hex()[:32]}.prefix"

    def _hash(self, tokens: Sequence[int], state: bytes) -> bytes:
        return hashlib.sha256(f"{self._key}\n{list(tokens)}\n".encode() + state).digest()
