"""The checkpoint folder: safetensors files, shards, index, small files, chat templates, revision."""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.errors import CheckpointError
from convert.read.checkpoint import Checkpoint
from convert.read.files import parse_object
from convert.read.model import read_model
from convert.read.safetensors import Dtype, SafetensorsFile
from tests.convert.checkpoints import Array, make_checkpoint, pack_safetensors, safetensors_bytes, write_safetensors

GOOD: dict[str, Array] = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.uint16)}
SECOND = "model-00002-of-00003.safetensors"


def refused(path: Path) -> str:
    """Why a safetensors file or a folder is refused."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(path) if path.is_dir() else SafetensorsFile(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def write(path: Path, header: dict[str, Any] | bytes, data: bytes) -> Path:
    path.write_bytes(pack_safetensors(header, data))
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_tensors_are_found_with_their_type_shape_and_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", *safetensors_bytes(GOOD))
    with SafetensorsFile(path) as file:
        first, second = file.tensors["a"], file.tensors["b"]
        assert (first.dtype, first.shape, first.nbytes) == (Dtype.F32, (2, 3), 24)
        assert (second.dtype, second.shape) == (Dtype.BF16, (4,))
        buffer = bytearray(12)
        first.read_into(memoryview(buffer), 12)
        assert np.frombuffer(buffer, np.float32).tolist() == [3, 4, 5]
        assert file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("header", "nbytes", "message"),
    [
        ({"a": entry(offsets=(0, 8)), "b": entry(offsets=(4, 12))}, 12, "tensor b begins at 4, 8 is expected"),
        ({"a": entry(offsets=(0, 8)), "b": entry(offsets=(12, 20))}, 20, "tensor b begins at 12, 8 is expected"),
        ({"a": entry(shape=[3])}, 8, "8 bytes between its data_offsets, dtype F32 and shape [3] need 12"),
        # 2^64 elements are zero bytes to a reader that multiplies in 64 bits.
        ({"a": entry(shape=[1 << 33, 1 << 31], offsets=(0, 0))}, 0, "need"),
        ({"a": entry()}, 9, "has bytes after the last tensor"),
        ({"a": entry()}, 7, "truncated"),
        (b'{"a": 1, "a": 1}', 8, 'the key "a" occurs twice'),
        (b"[]", 8, "holds a JSON list"),
        ({"a": entry(dtype="F64")}, 8, "dtype F64, allowed are BF16, F16, F32"),
        ({"a": entry(dtype=3)}, 8, "must hold dtype, shape and two data_offsets"),
        ({"a": entry(shape=[])}, 8, "must hold dtype, shape and two data_offsets"),
        ({"a": entry(shape=[True])}, 8, "must hold integers"),
        ({"a": entry(offsets=[0.0, 8])}, 8, "must hold integers"),
        ({"a": entry(offsets=[8, 0])}, 8, "-8 bytes between its data_offsets"),
        ({"\x1b[2J\u202eevil\n": entry(dtype="I64")}, 8, r"\x1b[2J\u202eevil\n"),
    ],
)
def test_a_header_that_is_not_of_the_data_is_refused(tmp_path: Path, header: Any, nbytes: int, message: str) -> None:
    assert message in refused(write(tmp_path / "m.safetensors", header, bytes(nbytes)))


def test_a_file_without_a_whole_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    assert "missing" in refused(path)
    for content, message in (
        (b"1234567", "the file ends at byte 7"),
        (struct.pack("<Q", 32_000_001) + b"{}", "at most 32000000"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "`git lfs pull`"),
        (struct.pack("<Q", 1000) + b"{}", "the file ends at byte 10"),
    ):
        path.write_bytes(content)
        assert message in refused(path)
    path.unlink()
    os.mkfifo(path)
    assert "regular" in refused(path)


def test_a_file_that_shrinks_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", *safetensors_bytes(GOOD))
    with SafetensorsFile(path) as file:
        os.truncate(path, path.stat().st_size - 2)
        with pytest.raises(CheckpointError, match="ends at byte"):
            file.tensors["b"].read_into(memoryview(bytearray(8)), 0)


def test_more_json_than_memory_is_bounded_for_is_not_read() -> None:
    with pytest.raises(CheckpointError, match="more than 4000000 values"):
        parse_object(b'{"a":[' + b"{}," * 4_000_000 + b"{}]}"[:-1], "a.json")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_checkpoint(layers=1, hidden=64, feed_forward=96, shards=3).write(tmp_path / "sharded")


def test_every_file_that_was_used_is_hashed(sharded: Path) -> None:
    with Checkpoint(sharded) as checkpoint:
        checkpoint.read_object("config.json")
        names = checkpoint.source_hashes().keys()
    assert names == {"config.json", *(f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3))}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: [path.unlink() for path in folder.glob("model*")],
            "only safetensors checkpoints are supported",
        ),
        (lambda folder: (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-10]), f"{SECOND}: truncated"),
        (
            lambda folder: write_safetensors(
                folder / SECOND, {"model.embed_tokens.weight": np.zeros((2, 2), np.float32)}
            ),
            "tensor model.embed_tokens.weight is in",
        ),
    ],
)
def test_damaged_shards_are_refused(sharded: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(sharded)
    assert message in refused(sharded)


def test_symbolic_links_are_followed_because_the_hub_cache_is_made_of_them(tmp_path: Path, sharded: Path) -> None:
    link = tmp_path / "snapshots" / ("0123456789" * 4)
    link.mkdir(parents=True)
    for path in sharded.iterdir():
        (link / path.name).symlink_to(path)
    with Checkpoint(link) as checkpoint:
        assert checkpoint.read_object("config.json") is not None
        assert checkpoint.revision() == "0123456789" * 4


def template_of(folder: Path, stated: Any = None, file: str | None = None) -> str | None:
    """The template that is read if tokenizer_config.json states `stated` and chat_template.jinja contains `file`."""
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": stated}), "utf-8")
    if file is not None:
        (folder / "chat_template.jinja").write_text(file, "utf-8")
    with Checkpoint(folder) as checkpoint:
        return read_model(checkpoint).chat_template


def test_the_template_in_tokenizer_config_wins_over_the_file(sharded: Path) -> None:
    assert template_of(sharded) is None
    assert template_of(sharded, [{"name": "rag", "template": "b"}, {"name": "default", "template": "a"}]) == "a"
    assert template_of(sharded, "from the config", "from the file") == "from the config"
    assert template_of(sharded) == "from the file"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for m in messages %}\nab\n{% if %}", "line 3: Expected an expression"),
        ("{% generation %}{% endgeneration %}", "line 1: Encountered unknown tag 'generation'"),
        ("{{ 'x' * 10 ** 10 }}", "takes more than 64 MB of memory"),
        (3, "is not a text"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_its_place(sharded: Path, template: Any, fault: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        template_of(sharded, template)
    assert str(caught.value).startswith(f"tokenizer_config.json: chat_template cannot be used: {fault}")
