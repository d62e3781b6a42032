from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.task_prefixes import Prefix, PrefixStore, TaskPrefixes

# The sequence of a request.
REQUEST = 99
TOKENS, STATE = [1, 2, 3], b"state\nof three tokens"


class FakeLlama:
    """Counts the tokens that sequences hold."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.decoded = 0

    def share(self, source: int, target: int, length: int) -> None:
        assert source == REQUEST or self.held.get(source, 0) >= length
        assert not self.held.get(target)
        self.held[target] = length

    def extend(self, seq_id: int, tokens: Sequence[int], *, threads: int) -> None:  # noqa: ARG002
        self.held[seq_id] = self.held.get(seq_id, 0) + len(tokens)
        self.decoded += len(tokens)

    def forget(self, seq_id: int) -> None:
        self.held[seq_id] = 0


class Cache(TaskPrefixes):
    """Prefixes over a fake context, with tasks named t0, t1, …"""

    def __init__(self, *seq_ids: int, max_cells: int = 100) -> None:
        self.llama = FakeLlama()
        super().__init__(cast("Llama", self.llama), seq_ids, max_cells=max_cells, store=None)

    def set(self, *prefixes: Sequence[int]) -> None:
        self.set_prefixes({f"t{number}": tokens for number, tokens in enumerate(prefixes)})

    def load(self, *prefixes: Sequence[int]) -> list[Prefix]:
        self.set(*prefixes)
        self.decode(1000, threads=1)
        return list(self._resident.values())

    def found(self, *prompt: int, task: str = "none") -> tuple[tuple[int, ...] | None, int]:
        prefix, shared = self.find_or_restore(task, prompt, 1000)
        return None if prefix is None else prefix.tokens, shared

    def answered(self, *prompt: int, task: str) -> None:
        self.keep(task, prompt, REQUEST, 1000)


def use(cache: Cache, prefix: Prefix, seq_id: int) -> None:
    cache.share(prefix, seq_id, len(prefix.tokens))


def test_a_prompt_shares_the_longest_prefix_but_its_last_token_is_decoded() -> None:
    cache = Cache(5, 6)
    cache.load([1, 2, 8, 8, 8, 8], [1, 2, 3, 4])
    assert cache.found(1, 2, 3, 4, 5) == ((1, 2, 3, 4), 4)
    assert cache.found(1, 2, 3, 9) == ((1, 2, 3, 4), 3)
    assert cache.found(1, 2, 3) == ((1, 2, 8, 8, 8, 8), 2)
    assert cache.found(1) == (None, 0)
    assert cache.found(7, 8) == (None, 0)


def test_what_prefixes_have_in_common_is_decoded_once() -> None:
    cache = Cache(5, 6, 7)
    assert [prefix.tokens for prefix in cache.load([1, 2, 3, 4], [1, 2, 3, 4], [], [1, 2, 3, 9, 9])] == [
        (1, 2, 3, 4),
        (1, 2, 3, 9, 9),
    ]
    assert cache.llama.decoded == 4 + 2


def test_after_a_reload_the_old_prefix_stays_until_its_last_request_has_ended() -> None:
    cache = Cache(5)
    (old,) = cache.load([1, 2, 3])
    use(cache, old, 1)

    cache.set([4, 5, 6])
    cache.answered(4, 5, 6, 7, task="t0")
    assert cache.found(4, 5, 6, 7) == (None, 0), "the sequence id is still taken"

    cache.release(old)
    cache.answered(4, 5, 6, 7, task="t0")
    assert cache.found(4, 5, 6, 7) == ((4, 5, 6), 3)


def test_only_text_of_the_task_is_kept_and_its_last_token_may_differ() -> None:
    cache = Cache(5, 6)
    cache.set([1, 2, 3], [1, 2, 4], [5])

    for task, prompt in (("none", [1, 2, 3]), ("t0", [1, 7, 8]), ("t2", [6])):
        cache.answered(*prompt, task=task)
        assert cache.cells == 0
    for task in ("t0", "t1"):
        cache.answered(1, 2, 9, 9, task=task)

    assert cache.found(1, 2, 9, 9) == ((1, 2), 2)
    assert cache.cells == 2


def test_a_prefix_that_has_no_room_is_not_kept() -> None:
    cache = Cache(5, 6, max_cells=25)
    (resident,) = cache.load([1] * 10)
    use(cache, resident, 1)
    cache.set([1] * 10, [2] * 20)
    cache.answered(*[2] * 21, task="t1")
    assert cache.found(*[2] * 21) == (None, 0)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    PrefixStore(tmp_path, "model").save(TOKENS, STATE)
    (path,) = tmp_path.iterdir()
    return path


def test_another_model_or_other_tokens_find_nothing(kept: Path) -> None:
    assert PrefixStore(kept.parent, "another model").load(TOKENS) is None
    assert PrefixStore(kept.parent, "model").load([1, 2]) is None


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_file_that_is_not_as_it_was_written_is_refused(kept: Path, place: int) -> None:
    content = bytearray(kept.read_bytes())
    content[place] ^= 1
    for damaged in (content, kept.read_bytes()[:-3], b""):
        kept.write_bytes(damaged)
        assert PrefixStore(kept.parent, "model").load(TOKENS) is None


def test_a_file_under_the_name_of_another_is_refused(kept: Path) -> None:
    store = PrefixStore(kept.parent, "model")
    store.save([9], b"other")
    (other,) = (path for path in kept.parent.iterdir() if path != kept)
    other.replace(kept)
    assert store.load(TOKENS) is None


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_keeping(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = PrefixStore(tmp_path / "file" / "prefixes", "model")
    store.save(TOKENS, STATE)
    store.keep_only([])
    assert store.load(TOKENS) is None
