"""Numbers of weights that are none: found where llama.cpp's own check of a tensor's data finds them."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import pytest

from convert.quantize import ggml
from edge_agent.gguf.header import HeaderError, read_header
from edge_agent.gguf.numbers import check_numbers
from edge_agent.gguf.types import TENSOR_TYPES, TensorType
from tests.helpers.ggufs import gguf

BLOCKS = 3
NAN, INFINITY = 0x7FFF, 0xFC00
# Whose scales are not numbers of their own.
PACKED = {"IQ1_M", "MXFP4"}


def is_refused(path: Path, number: int, kind: TensorType, data: bytes) -> bool:
    path.write_bytes(gguf({}, [("t", number, (kind.elements * BLOCKS,), 0)], data))
    try:
        check_numbers(path, read_header(path).tensors)
    except HeaderError as error:
        assert str(error).startswith("tensor t: should hold finite numbers only (got ")  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize("kind", TENSOR_TYPES.items(), ids=lambda kind: kind[1].name)
def test_of_every_type_what_the_library_takes_for_no_number(
    tmp_path: Path, kind: tuple[int, TensorType], capfd: pytest.CaptureFixture[str]
) -> None:
    number, known = kind
    validate = ctypes.CDLL(str(ggml.library_path())).ggml_validate_row_data
    validate.argtypes, validate.restype = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t], ctypes.c_bool
    sound = bytes(known.nbytes * BLOCKS)
    assert not is_refused(tmp_path / "x", number, known, sound)
    found = 0
    for at in range(0, known.nbytes - 1, 2):
        for bits in (NAN, INFINITY):
            data = bytearray(sound)
            struct.pack_into("<H", data, known.nbytes * (BLOCKS - 1) + at, bits)
            expected = not validate(number, bytes(data), len(data))
            if known.name not in PACKED:
                assert is_refused(tmp_path / "x", number, known, bytes(data)) == expected, (at, bits)
                found += expected
    capfd.readouterr()
    assert found or known.name in PACKED


def test_numbers_at_the_ends_of_a_long_tensor_are_looked_at(tmp_path: Path) -> None:
    blocks = (3 << 20) // 18
    for at in (0, blocks // 2, blocks - 1):
        data = bytearray(18 * blocks)
        struct.pack_into("<H", data, 18 * at, NAN)
        (tmp_path / "x").write_bytes(gguf({}, [("t", 2, (32, blocks), 0)], bytes(data)))
        with pytest.raises(HeaderError, match="got 1 that are not"):
            check_numbers(tmp_path / "x", read_header(tmp_path / "x").tensors)
