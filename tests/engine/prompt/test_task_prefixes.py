from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.prefix_store import PrefixStore
from edge_agent.engine.prompt.task_prefixes import Prefix, TaskPrefixes


class FakeLlama:
    """Counts the tokens that sequences hold."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}

    def share(self, source: int, target: int, length: int) -> None:
        assert self.held.get(source, 0) >= length
        assert not self.held.get(target)
        self.held[target] = length

    def forget(self, seq_id: int) -> None:
        self.held[seq_id] = 0

    def state(self, seq_id: int) -> bytes:
        return str(self.held[seq_id]).encode()

    def restore(self, seq_id: int, state: bytes, length: int) -> bool:
        self.held[seq_id] = length
        return int(state) == length


class Cache(TaskPrefixes):
    """Prefixes over a fake context, with tasks named t0, t1, …"""

    def __init__(self, *seq_ids: int, max_cells: int = 100, store: PrefixStore | None = None) -> None:
        self.llama = FakeLlama()
        super().__init__(cast("Llama", self.llama), seq_ids, max_cells=max_cells, store=store)

    def set(self, *prefixes: Sequence[int]) -> None:
        self.want({f"t{number}": tokens for number, tokens in enumerate(prefixes)})

    def decode(self, *, free_cells: int = 1000) -> list[Prefix]:
        """Starts what is missing and decodes it."""
        self.start_missing(free_cells)
        found = [prefix for prefix in self._resident.values() if prefix.decoding]
        for prefix in found:
            self.finish(prefix)
        return found

    def finish(self, prefix: Prefix) -> None:
        sequence = prefix.decoding
        assert sequence is not None
        sequence.done = self.llama.held[prefix.seq_id] = len(prefix.tokens)
        self.was_decoded(sequence)

    def found(self, prompt: Sequence[int], task: str = "none") -> tuple[tuple[int, ...] | None, int] | None:
        found = self.find(task, prompt, 1000)
        if found is None:
            return None
        prefix, shared = found
        return None if prefix is None else prefix.tokens, shared


def use(cache: Cache, prefix: Prefix, seq_id: int) -> None:
    cache.share(prefix, seq_id, len(prefix.tokens))


def test_a_prompt_shares_the_longest_prefix_but_its_last_token_is_decoded() -> None:
    cache = Cache(5, 6)
    cache.set([1, 2, 8, 8, 8, 8], [1, 2, 3, 4])
    cache.decode()

    assert cache.found([1, 2, 3, 4, 5]) == ((1, 2, 3, 4), 4)
    assert cache.found([1, 2, 3, 9]) == ((1, 2, 3, 4), 3)
    assert cache.found([1, 2, 3]) == ((1, 2, 8, 8, 8, 8), 2)
    assert cache.found([1]) == (None, 0)
    assert cache.found([7, 8]) == (None, 0)


def test_prefixes_beyond_the_sequence_ids_or_the_cells_are_left_out() -> None:
    by_ids, by_cells = Cache(5, 6), Cache(*range(32), max_cells=10)
    for cache in (by_ids, by_cells):
        cache.set(*([n, 1, 2] for n in range(32)))
        cache.decode()

    assert by_ids.cells == 6
    assert by_cells.cells == 9


def test_equal_prefixes_and_beginnings_of_others_are_held_once() -> None:
    cache = Cache(5, 6)

    cache.set([1, 2], [1, 2, 3], [1, 2, 3], [])

    assert [prefix.tokens for prefix in cache.decode()] == [(1, 2, 3)]


def test_a_prefix_that_begins_as_a_resident_one_decodes_only_the_rest() -> None:
    cache = Cache(5, 6)
    cache.set([1, 2, 3, 4])
    cache.decode()
    cache.set([1, 2, 3, 4], [1, 2, 3, 9, 9])
    cache.start_missing(1000)

    (sequence,) = cache.decoding(awaited=False)

    assert (sequence.done, sequence.waiting) == (3, 2)


def test_after_a_reload_the_old_prefix_stays_until_its_last_request_has_ended() -> None:
    cache = Cache(5)
    cache.set([1, 2, 3])
    (old,) = cache.decode()
    use(cache, old, 1)

    cache.set([4, 5, 6])
    assert cache.decode() == [], "its sequence id is still taken"

    cache.release(old)
    assert [(prefix.tokens, prefix.seq_id) for prefix in cache.decode()] == [((4, 5, 6), 5)]


def test_idle_prefixes_make_room_and_come_back() -> None:
    cache = Cache(5, 6)
    cache.set([1, 2, 3], [4, 5, 6])
    used, _ = cache.decode()
    use(cache, used, 1)

    cache.drop_idle()

    assert cache.cells == 3
    assert [prefix.tokens for prefix in cache.decode()] == [(4, 5, 6)]


def test_a_request_waits_for_its_own_prefix_which_replaces_the_least_recently_used() -> None:
    own = list(range(50, 70))
    cache = Cache(5, 6)
    cache.set([1] * 10, [2] * 10, own)
    first, second = cache.decode()
    use(cache, second, 1)
    use(cache, first, 2)
    for prefix in (first, second):
        cache.release(prefix)

    assert cache.found([*own, 7], "t2") is None
    (sequence,) = cache.decoding(awaited=True)
    assert (sequence.seq_id, sequence.tokens) == (second.seq_id, own)
    assert cache.found([*own, 7], "t2") is None, "it is still being decoded"

    cache.finish(cache._resident[tuple(own)])
    assert cache.found([*own, 7], "t2") == (tuple(own), 20)


def test_a_request_does_not_wait_where_its_prefix_does_not_fit() -> None:
    own = list(range(50, 70))
    cache = Cache(5, max_cells=25)
    cache.set([1] * 10, own)
    (resident,) = cache.decode()
    use(cache, resident, 1)

    assert cache.found([*own, 7], "t1") == (None, 0)


def test_after_a_rebuild_what_was_being_decoded_is_not_tried_again() -> None:
    cache = Cache(5, 6)
    cache.set([1, 2, 3])
    cache.decode()
    cache.set([1, 2, 3], [4, 5, 6])
    cache.start_missing(1000)

    cache.reset()

    assert not cache.is_busy
    assert [prefix.tokens for prefix in cache.decode()] == [(1, 2, 3)]


def test_decoded_prefixes_are_kept_on_disk_and_restored(tmp_path: Any) -> None:
    store = PrefixStore(tmp_path, "model")
    first = Cache(5, store=store)
    first.set([1, 2, 3])
    first.decode()

    again = Cache(5, store=store)
    again.set([1, 2, 3])
    again.start_missing(1000)

    assert not again.is_busy
    assert again.found([1, 2, 3, 4]) == ((1, 2, 3), 3)
    again.set()
    assert list(tmp_path.iterdir()) == []
