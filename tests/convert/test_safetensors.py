"""The reader of one safetensors file: what it accepts, and every way a file can lie."""

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.errors import CheckpointError
from convert.read.safetensors import Dtype, SafetensorsFile
from tests.convert.checkpoints import Array, pack_safetensors, safetensors_bytes

GOOD: dict[str, Array] = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.uint16)}


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert "\n" not in message
    return message


def write(path: Path, header: dict[str, Any] | bytes, data: bytes) -> Path:
    path.write_bytes(pack_safetensors(header, data))
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


ONE = json.dumps({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})


@pytest.mark.parametrize(
    ("header", "nbytes", "message"),
    [
        (
            {"a": entry(offsets=(0, 8)), "b": entry(offsets=(4, 12))},
            12,
            "tensor b overlaps a: it begins at 4, 8",
        ),
        ({"a": entry(offsets=(0, 8)), "b": entry(offsets=(12, 20))}, 20, "tensor b leaves a gap after a"),
        ({"a": entry(offsets=(8, 16))}, 16, "gap after the header"),
        ({"a": entry(shape=[3])}, 8, "8 bytes between its data_offsets, dtype F32 and shape [3] need 12"),
        # 2^64 elements: zero bytes to a reader that multiplies in 64 bits.
        ({"a": entry(shape=[1 << 33, 1 << 31], offsets=(0, 0))}, 0, "need"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
        (f'{{"a": {ONE}, "a": {ONE}}}'.encode(), 8, 'the key "a" appears twice'),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 10_000 + b'], "data_offsets": [0, 8]}}', 8, ""),
    ],
    ids=["overlap", "gap", "gap at the start", "size", "overflow", "metadata", "twice", "digits"],
)
def test_a_header_that_does_not_describe_the_data_is_refused(
    tmp_path: Path, header: Any, nbytes: int, message: str
) -> None:
    assert message in refused(write(tmp_path / "m.safetensors", header, bytes(nbytes)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing"),
        (b"1234567", "7 bytes"),
        (struct.pack("<Q", 32_000_001) + b"{}", "at most 32000000"),
        (struct.pack("<Q", 1000) + b"{}", "truncated"),
    ],
)
def test_a_file_without_a_whole_header_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "m.safetensors").write_bytes(content)
    assert message in refused(tmp_path / "m.safetensors")


def test_tensors_are_found_with_their_type_shape_and_bytes(tmp_path: Path) -> None:
    with SafetensorsFile(write(tmp_path / "m.safetensors", *safetensors_bytes(GOOD))) as file:
        first, second = file.tensors["a"], file.tensors["b"]
        assert (first.dtype, first.shape, first.nbytes) == (Dtype.F32, (2, 3), 24)
        assert (second.dtype, second.shape) == (Dtype.BF16, (4,))
        buffer = bytearray(12)
        first.read_into(memoryview(buffer), 12)
        assert np.frombuffer(buffer, np.float32).tolist() == [3, 4, 5]


def test_the_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", *safetensors_bytes({"a": np.zeros(400_000, np.float32)}))
    with SafetensorsFile(path) as file:
        assert file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_tensor_is_not_read_beyond_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", *safetensors_bytes(GOOD))
    with SafetensorsFile(path) as file, pytest.raises(ValueError, match="outside"):
        file.tensors["a"].read_into(memoryview(bytearray(8)), 20)


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    assert "regular" in refused(tmp_path / "m.safetensors")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", *safetensors_bytes(GOOD))
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in refused(path)


def test_a_file_that_shrinks_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", *safetensors_bytes(GOOD))
    with SafetensorsFile(path) as file:
        os.truncate(path, path.stat().st_size - 2)
        with pytest.raises(CheckpointError, match="ends at byte"):
            file.tensors["b"].read_into(memoryview(bytearray(8)), 0)


def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path) -> None:
    header, data = safetensors_bytes(GOOD)
    assert "after the last tensor" in refused(write(tmp_path / "m.safetensors", header, data + b"x"))


@pytest.mark.parametrize("dtype", ["F64", "I8", "F8_E4M3", "BOOL", "bf16", None, 3, ["F32"]])
def test_another_dtype_is_refused_by_name(tmp_path: Path, dtype: Any) -> None:
    message = refused(write(tmp_path / "m.safetensors", {"a": entry(dtype=dtype)}, bytes(8)))
    assert "allowed are BF16, F16, F32" in message
    assert str(dtype)[:4] in message


@pytest.mark.parametrize("shape", [[], [0], [2, 0], [-1], [2.0], [True], "2", None, [1] * 9, [[2]]])
def test_an_impossible_shape_is_refused(tmp_path: Path, shape: Any) -> None:
    assert "shape" in refused(write(tmp_path / "m.safetensors", {"a": entry(shape=shape)}, bytes(8)))


@pytest.mark.parametrize("offsets", [[0], [0, 8, 16], [8, 0], [-8, 0], [0.0, 8], None, "08", [0, "8"]])
def test_impossible_offsets_are_refused(tmp_path: Path, offsets: Any) -> None:
    assert "data_offsets" in refused(write(tmp_path / "m.safetensors", {"a": entry(offsets=offsets)}, bytes(8)))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b"{", b'{"a": NaN}', b'{"a": 1}', b'{"\xff": 1}', b' {"a": 1}', b"{" + b'"a":{' * 5000],
)
def test_a_header_that_is_no_object_of_tensors_is_refused(tmp_path: Path, text: bytes) -> None:
    refused(write(tmp_path / "m.safetensors", text, b""))


def test_escape_sequences_in_a_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "m.safetensors", {"\x1b[2J\u202eevil\n": entry(dtype="I64")}, bytes(8)))
    assert message.isprintable()
    assert r"\x1b[2J\u202eevil\n" in message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8"]) | json_values,
        "shape": st.lists(st.integers(0, 4), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | json_values,
    }
)


@given(header=st.dictionaries(st.text(max_size=5), entries | json_values, max_size=3), data=st.binary(max_size=48))
def test_any_header_is_either_refused_cleanly_or_describes_exactly_the_data(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "m.safetensors", header, data)
    try:
        file = SafetensorsFile(path)
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    with file:
        assert sum(tensor.nbytes for tensor in file.tensors.values()) == len(data)


@given(data=st.binary(max_size=64))
def test_any_bytes_are_refused_cleanly_or_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    path.write_bytes(data)
    try:
        SafetensorsFile(path).close()
    except CheckpointError as error:
        assert str(error).isprintable()  # noqa: PT017
