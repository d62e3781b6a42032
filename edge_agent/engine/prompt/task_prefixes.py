"""The tasks' prefixes in the context: decoded while there is room or when a request needs one, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.prefix_cache import Prefix, PrefixCache, Tokens
from edge_agent.engine.prompt.prefix_store import PrefixStore
from edge_agent.engine.request import Stream


class TaskPrefixes:
    """Fills the sequences that PrefixCache decides on. store: None = nothing is kept on disk."""

    def __init__(self, llama: Llama, cache: PrefixCache, store: PrefixStore | None) -> None:
        self._llama = llama
        self._cache = cache
        self._store = store
        self._streams: dict[Prefix, Stream] = {}
        self._awaited: set[Prefix] = set()

    @property
    def cells(self) -> int:
        return self._cache.cells

    @property
    def is_busy(self) -> bool:
        """Whether one of them is to be decoded."""
        return bool(self._streams)

    def want(self, prefixes: Mapping[str, Sequence[int]]) -> None:
        """These are the tasks' prefixes from now on."""
        self._cache.want(prefixes)
        if self._store is not None:
            self._store.keep_only(self._cache.wanted)

    def tend(self, free_cells: int) -> None:
        """Drop the prefixes that no task has any more; begin those that are missing and fit into so many cells."""
        self._forget(self._cache.drop_unwanted())
        while (prefix := self._cache.next_missing(free_cells)) is not None:
            free_cells -= len(prefix.tokens)
            self._begin(prefix)

    def find(self, task: str, prompt: Sequence[int], free_cells: int) -> tuple[Prefix | None, int] | None:
        """The prefix to share with a prompt, and how many tokens; None = the task's own is under way, wait for it."""
        prefix, shared = self._cache.match(prompt)
        missing = self._cache.missing_for(task, prompt, shared)
        if missing is None:
            return prefix, shared
        own = self._cache.resident(missing) or self._make(missing, free_cells)
        if own is None:
            return prefix, shared
        if own.is_ready:
            return self._cache.match(prompt)
        self._awaited.add(own)
        return None

    def share(self, prefix: Prefix, seq_id: int, length: int) -> None:
        """The empty sequence `seq_id` begins with so many tokens of it; `release` it when that request ends."""
        self._cache.use(prefix)
        self._llama.share(prefix.seq_id, seq_id, length)

    def release(self, prefix: Prefix) -> None:
        self._cache.release(prefix)

    def streams(self, *, awaited: bool) -> Iterator[Stream]:
        """Those that requests wait for, or the others."""
        for prefix, stream in self._streams.items():
            if (prefix in self._awaited) is awaited:
                yield stream

    def decoded(self, stream: Stream) -> None:
        """The engine decoded some of its tokens."""
        if not stream.is_done or stream.prefix is None:
            return
        self._end(stream.prefix)
        if self._store is not None:
            self._store.save(stream.prefix.tokens, self._llama.state(stream.seq_id))

    def make_room(self) -> None:
        """Drop all that nobody uses: pinned prefixes must not keep out what fits without them."""
        self._forget(self._cache.drop_idle())

    def reset(self) -> None:
        """The context was rebuilt. What was being decoded may be why: it is not tried again."""
        for prefix in self._streams:
            self._cache.give_up(prefix)
        self._streams.clear()
        self._awaited.clear()
        self._cache.drop_all()

    def _make(self, tokens: Tokens, free_cells: int) -> Prefix | None:
        """Begin this one, in place of others where there is no room; None if even that is not enough."""
        victims = self._cache.victims(tokens, free_cells)
        if victims is None:
            return None
        self._forget(self._cache.drop(victims))
        prefix = self._cache.add(tokens)
        self._begin(prefix)
        return prefix

    def _begin(self, prefix: Prefix) -> None:
        state = self._store.load(prefix.tokens) if self._store is not None else None
        if state is not None and self._llama.restore(prefix.seq_id, state, len(prefix.tokens)):
            self._cache.ready(prefix)
            return
        stream = Stream(prefix.seq_id, list(prefix.tokens), prefix=prefix)
        parent, shared = self._cache.match(prefix.tokens)
        if parent is not None:
            self._llama.share(parent.seq_id, stream.seq_id, shared)
            stream.done = shared
        self._streams[prefix] = stream

    def _end(self, prefix: Prefix) -> None:
        del self._streams[prefix]
        self._awaited.discard(prefix)
        self._cache.ready(prefix)

    def _forget(self, seq_ids: Sequence[int]) -> None:
        for seq_id in seq_ids:
            self._llama.forget(seq_id)
