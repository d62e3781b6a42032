from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.engine.prompt.task_prefixes import PrefixStore

TOKENS, STATE = [1, 2, 3], b"state\nof three tokens"


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
