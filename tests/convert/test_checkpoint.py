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


def index_says(**weight_map: Any) -> Callable[[Path], None]:
    """Changes the index; None removes a tensor from it."""
    changes = {name.replace("__", "."): shard for name, shard in weight_map.items()}

    def change(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        for name, shard in changes.items():
            index["weight_map"].pop(name, None)
            if shard is not None:
                index["weight_map"][name] = shard
        (folder / INDEX).write_text(json.dumps(index))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / SECOND).unlink(), f"{SECOND}: missing, {INDEX} lists 3 files"),
        (lambda folder: (folder / INDEX).unlink(), f"{INDEX}: missing"),
        (lambda folder: (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-10]), f"{SECOND}: truncated"),
        (index_says(more__weight=SECOND), f"{SECOND}: tensor more.weight is missing, {INDEX} lists it there"),
        (index_says(model__norm__weight=None), "tensor model.norm.weight is not listed"),
        (index_says(model__embed_tokens__weight=SECOND), "puts model.embed_tokens.weight into"),
        (
            lambda folder: write_safetensors(
                folder / SECOND, {"model.embed_tokens.weight": np.zeros((2, 2), np.float32)}
            ),
            "tensor model.embed_tokens.weight is in",
        ),
        (
            lambda folder: write_safetensors(folder / "model.safetensors", {"a": np.zeros(2, np.float32)}),
            "remove one of the two",
        ),
    ],
)
def test_shards_and_index_that_disagree_are_refused(
    sharded: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(sharded)
    assert message in refused(sharded)


def test_a_pickle_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "only safetensors" in refused(tmp_path)


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


def test_a_small_file_that_is_not_strict_is_refused(sharded: Path) -> None:
    (sharded / "config.json").write_text('{"a": 1, "a": 2}')
    (sharded / "README.md").write_bytes(b"a\xff")
    with Checkpoint(sharded) as checkpoint:
        with pytest.raises(CheckpointError, match=r"config\.json"):
            checkpoint.read_object("config.json")
        with pytest.raises(CheckpointError, match="not UTF-8 at byte 1"):
            checkpoint.read_text("README.md")
