"""The checkpoint folder: shards, index, small files, revision."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.errors import CheckpointError
from convert.read.checkpoint import INDEX, Checkpoint
from tests.convert.checkpoints import make_checkpoint, write_safetensors

SECOND = "model-00002-of-00003.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_checkpoint(shards=3).write(tmp_path / "sharded")


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(folder)
    return str(caught.value)


def change_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def test_shards_give_the_same_tensors_as_one_file(tmp_path: Path, sharded: Path) -> None:
    whole = make_checkpoint().write(tmp_path / "whole")
    with Checkpoint(whole) as one, Checkpoint(sharded) as three:
        assert one.tensors.keys() == three.tensors.keys()
        assert {name: t.shape for name, t in one.tensors.items()} == {
            name: t.shape for name, t in three.tensors.items()
        }


def test_every_file_that_was_used_is_hashed(sharded: Path) -> None:
    with Checkpoint(sharded) as checkpoint:
        checkpoint.read_object("config.json")
        names = checkpoint.source_hashes().keys()
    assert names == {"config.json", INDEX, *(f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3))}


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "no such checkpoint folder" in refused(tmp_path / "none")


def test_a_pickle_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "only safetensors" in refused(tmp_path)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    message = refused(sharded)
    assert message == f"{SECOND}: missing, {INDEX} lists 3 files"


def test_shards_without_an_index_are_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert f"{INDEX}: missing" in refused(sharded)


def test_a_truncated_shard_is_named(sharded: Path) -> None:
    (sharded / SECOND).write_bytes((sharded / SECOND).read_bytes()[:-10])
    assert refused(sharded).startswith(f"{SECOND}: truncated")


def test_a_tensor_that_the_index_lists_but_no_shard_has_is_named(sharded: Path) -> None:
    change_index(sharded, lambda index: index["weight_map"].update({"model.more.weight": SECOND}))
    assert refused(sharded) == f"{SECOND}: tensor model.more.weight is missing, {INDEX} lists it there"


def test_a_tensor_that_the_index_does_not_list_is_named(sharded: Path) -> None:
    change_index(sharded, lambda index: index["weight_map"].pop("model.norm.weight"))
    assert "tensor model.norm.weight is not listed" in refused(sharded)


def test_a_tensor_in_another_shard_than_the_index_says_is_named(sharded: Path) -> None:
    change_index(sharded, lambda index: index["weight_map"].update({"model.embed_tokens.weight": SECOND}))
    assert "puts model.embed_tokens.weight into" in refused(sharded)


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    write_safetensors(sharded / SECOND, {"model.embed_tokens.weight": np.zeros((2, 2), np.float32)})
    assert "tensor model.embed_tokens.weight is in" in refused(sharded)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/x.safetensors", "a/b.safetensors", "a\\b.safetensors", ".safetensors", "x.bin", 3, None],
)
def test_a_shard_name_that_leaves_the_folder_is_refused(sharded: Path, name: Any) -> None:
    change_index(sharded, lambda index: index["weight_map"].update({"model.norm.weight": name}))
    assert "allowed are plain names" in refused(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_a_weight_map_is_refused(sharded: Path, weight_map: Any) -> None:
    change_index(sharded, lambda index: index.update({"weight_map": weight_map}))
    assert "weight_map must be an object" in refused(sharded)


def test_a_single_file_beside_an_index_of_others_is_refused(sharded: Path) -> None:
    write_safetensors(sharded / "model.safetensors", {"a": np.zeros(2, np.float32)})
    assert "remove one of the two" in refused(sharded)


def test_symbolic_links_are_followed_because_the_hub_cache_is_made_of_them(tmp_path: Path) -> None:
    real = make_checkpoint().write(tmp_path / "blobs")
    link = tmp_path / "snapshots" / ("0123456789" * 4)
    link.mkdir(parents=True)
    for path in real.iterdir():
        (link / path.name).symlink_to(path)
    with Checkpoint(link) as checkpoint:
        assert checkpoint.read_object("config.json") is not None
        assert checkpoint.revision() == "0123456789" * 4


def test_the_revision_of_a_plain_download_is_in_its_cache_folder(sharded: Path) -> None:
    with Checkpoint(sharded) as checkpoint:
        assert checkpoint.revision() is None
        note = sharded / ".cache" / "huggingface" / "download" / "config.json.metadata"
        note.parent.mkdir(parents=True)
        note.write_text("abcdef0123" * 4 + "\netag\n")
        assert checkpoint.revision() == "abcdef0123" * 4


def test_a_file_with_a_duplicate_key_is_refused(sharded: Path) -> None:
    (sharded / "config.json").write_text('{"a": 1, "a": 2}')
    with Checkpoint(sharded) as checkpoint, pytest.raises(CheckpointError, match=r"config\.json"):
        checkpoint.read_object("config.json")


def test_a_file_that_is_not_utf8_is_refused(sharded: Path) -> None:
    (sharded / "README.md").write_bytes(b"a\xff")
    with Checkpoint(sharded) as checkpoint, pytest.raises(CheckpointError, match="not UTF-8 at byte 1"):
        checkpoint.read_text("README.md")
