import struct
import time
import tracemalloc
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.gguf.header import (
    MAX_HEADER_BYTES,
    MAX_KEYS,
    MAX_TENSORS,
    TENSOR_TYPES,
    Array,
    Header,
    HeaderError,
    read_header,
    read_strings,
)
from tests.helpers.ggufs import ARRAY, BOOL, F32, I32, STRING, U32, U64, gguf, refused, text, written

RICH: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "qwen2"),
    "name": (STRING, "Prüfstand 7"),
    "count": (U64, 2**63),
    "least": (I32, -5),
    "part": (F32, 0.5),
    "yes": (BOOL, 1),
    "words": (ARRAY, (STRING, ["a", "", "längeres"])),
    "numbers": (ARRAY, (I32, [1, 2, 3])),
    "none": (ARRAY, (U32, [])),
}
TWO: list[Any] = [("a", 8, (32, 2), 0), ("b", 0, (3,), 96)]
TWO_DATA = bytes(96 + 12)


def read(tmp_path: Path, data: bytes) -> Header:
    return read_header(written(tmp_path, data))


refusal = partial(refused, read_header)


def test_the_strings_of_an_array_are_found_again(tmp_path: Path) -> None:
    words = ["", "a", "längeres", "x" * 300_000, ""]
    values = {"first": (U32, 1), "words": (ARRAY, (STRING, words)), "last": (U32, 1)}
    array = read(tmp_path, gguf(values, [], b"")).values["words"]
    assert isinstance(array, Array)
    assert [word.decode() for word in read_strings(tmp_path / "x.gguf", array)] == words


@pytest.mark.parametrize("version", [2, 3, None])
def test_values_and_tensors_are_those_of_another_reader(tmp_path: Path, demo_bundle: Path, version: int | None) -> None:
    path = demo_bundle / "model.gguf" if version is None else tmp_path / "x.gguf"
    if version is not None:
        path.write_bytes(gguf(RICH, TWO, TWO_DATA, version=version))
    header, other = read_header(path), GGUFReader(path)
    fields = {name: field for name, field in other.fields.items() if not name.startswith("GGUF.")}
    assert header.values.keys() == fields.keys()
    for name, found in header.values.items():
        if isinstance(found, Array):
            assert found.count == len(fields[name].data)
        else:
            assert found == fields[name].contents()
    assert [(t.name, t.type.name, t.shape, t.offset, t.nbytes) for t in header.tensors] == [
        (t.name, t.tensor_type.name, tuple(t.shape.tolist()), t.data_offset, t.n_bytes) for t in other.tensors
    ]


@pytest.mark.parametrize("kind", TENSOR_TYPES.items(), ids=lambda kind: kind[1].name)
def test_the_types_of_weights_are_those_of_ggml(kind: tuple[int, Any]) -> None:
    number, known = kind
    assert known.name == GGMLQuantizationType(number).name
    assert (known.elements, known.nbytes) == GGML_QUANT_SIZES[GGMLQuantizationType(number)]


def test_alignment_is_obeyed(tmp_path: Path) -> None:
    values = {**RICH, "general.alignment": (U32, 64)}
    tensors = [("a", 0, (3,), 0), ("b", 0, (3,), 64)]
    header = read(tmp_path, gguf(values, tensors, bytes(76), alignment=64))
    assert [tensor.offset % 64 for tensor in header.tensors] == [0, 0]
    assert 'tensor "b": should begin at 32' in refusal(tmp_path, gguf(RICH, tensors, bytes(76)))


def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    data = gguf(RICH, TWO, TWO_DATA)
    for cut in range(0, len(data), 3):
        refusal(tmp_path, data[:cut])


def lie(kind: int, raw: bytes) -> bytes:
    """A header with one key `k` of this kind, whose value is what `raw` says."""
    return gguf({}, [], b"", keys=1)[:24] + text("k") + struct.pack("<I", kind) + raw


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (gguf(version=1), "version 2 or 3"),
        (gguf(keys=MAX_KEYS + 1), f"at most {MAX_KEYS} keys (got {MAX_KEYS + 1})"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0), f"at most {MAX_TENSORS} tensors"),
        (gguf({b"a\xffb": (U32, 1)}, [], b""), "UTF-8 for a key (byte 1 is not)"),
        (gguf({"": (U32, 1)}, [], b""), "empty key"),
        (gguf({"k" * 257: (U32, 1)}, [], b""), "at most 256 bytes of a key (got 257)"),
        (gguf({"k": (U32, 1), b"k": (U32, 1)}, [], b""), 'every key once (got "k" again)'),
        (gguf({"k": (BOOL, 2)}, [], b""), 'key "k": should be 0 or 1 (got 2)'),
        (gguf({"k": (STRING, b"\x80")}, [], b""), 'UTF-8 for key "k"'),
        (lie(13, b""), 'key "k": should have a type from 0 to 12 (got 13)'),
        (lie(STRING, struct.pack("<Q", 2**63)), 'bytes of key "k" (got'),
        (lie(STRING, struct.pack("<Q", 10)), "ends at byte"),
        (lie(ARRAY, struct.pack("<IQ", ARRAY, 1)), "elements' type is 9"),
        (lie(ARRAY, struct.pack("<IQ", U64, 2**61)), "ends at byte"),
        (lie(ARRAY, struct.pack("<IQQ", STRING, 1, 2**20 + 1)), 'at most 1048576 bytes of key "k"'),
        (lie(ARRAY, struct.pack("<IQQ", STRING, 1, 5)), "ends at byte"),
        (gguf({"k\0": (U32, 1)}, [], b""), "no zero byte in a key"),
        (gguf({"k": (STRING, "a\0b")}, [], b""), 'no zero byte in key "k"'),
        (gguf(RICH, [("t\0", 0, (1,), 0)]), "no zero byte in a tensor's name"),
        (gguf({"general.alignment": (U32, 48)}), "general.alignment: should be a power of two (got 48)"),
        (gguf({"general.alignment": (U32, 1 << 17)}), "from 32 to 65536 as U32 (got 131072)"),
        (gguf({"general.alignment": (U64, 64)}), "as U32 (got 64 as U64)"),
        (gguf(RICH, [("t" * 64, 0, (1,), 0)]), "at most 63 bytes of a tensor's name"),
        (gguf(RICH, [("t", 0, (1,), 0), ("t", 0, (1,), 32)]), 'every tensor once (got "t" again)'),
        (gguf(RICH, [("t", 0, (), 0)]), 'tensor "t": should have one dimension or more'),
        (gguf(RICH, [("t", 0, (4, 0), 0)]), "none of them 0 (got [4, 0])"),
        (gguf(RICH, [("t", 0, (1,) * 5, 0)]), 'at most 4 dimensions of tensor "t" (got 5)'),
        (gguf(RICH, [("t", 4, (32,), 0)]), "a type of weights that is known (got 4)"),
        (gguf(RICH, [("t", 8, (33,), 0)]), "rows of whole blocks of Q8_0, 32 numbers each (got 33)"),
        (gguf(RICH, [("t", 0, (17,), 0)], bytes(64)), "ends at byte"),
        (gguf(RICH, [("t", 0, (1,), 32)]), "should begin at 0, right after the previous tensor (got 32)"),
    ],
)
def test_a_bad_header_is_refused_with_its_reason(tmp_path: Path, data: bytes, told: str) -> None:
    assert told in refusal(tmp_path, data)


@pytest.mark.parametrize(
    "head",
    [
        lie(ARRAY, struct.pack("<IQ", STRING, 2**60)),
        lie(ARRAY, struct.pack("<IQ", STRING, MAX_HEADER_BYTES // 8)),
        lie(ARRAY, struct.pack("<IQ", U64, 2**36)),
        lie(STRING, struct.pack("<Q", 2**39)),
        gguf({}, [], b"", keys=MAX_KEYS)[:24],
    ],
)
def test_a_huge_sparse_file_costs_little(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(HeaderError):
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert time.monotonic() - began < 20


GOOD = gguf(RICH, TWO, TWO_DATA)
edits = st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=9)), max_size=4)
counts = st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]).map(lambda count: struct.pack("<Q", count))


@settings(max_examples=200)
@given(edits=edits | st.lists(st.tuples(st.integers(0, len(GOOD) - 8), counts), max_size=2), cut=st.integers(0, 50))
def test_any_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(GOOD)
    for at, new in edits:
        data[at : at + len(new)] = new
    del data[len(data) - cut :]
    path = tmp_path_factory.mktemp("fuzz") / "x.gguf"
    path.write_bytes(data)
    try:
        header = read_header(path)
    except HeaderError as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    ends = [(tensor.offset, tensor.offset + tensor.nbytes) for tensor in header.tensors]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ends))
    assert all(end <= len(data) for _, end in ends)
