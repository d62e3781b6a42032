"""Reads the header of a GGUF file: its values and the places of its tensors, before native code reads it.

Every count and length is checked against a limit. Tensors must lie one behind the other, as llama.cpp expects.
Arrays are most of a header; only their type, length and place are kept.
Source: ggml/src/gguf.cpp and ggml/include/ggml.h of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from edge_agent.core.wording import shown

# The magic and the version.
_HEADS = (b"GGUF\2\0\0\0", b"GGUF\3\0\0\0")
# A vocabulary of 152 000 tokens with its merges takes 6 MB.
MAX_HEADER_BYTES = 32 << 20
MAX_TENSORS = 10_000
MAX_KEYS = 4_000
MAX_KEY_BYTES = 256
MAX_NAME_BYTES = 63
MAX_STRING_BYTES = 1 << 20
MAX_DIMENSIONS = 4
# llama.cpp's buffers need this of a mapped address.
MIN_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
_ALIGNMENT_KEY = "general.alignment"
_BUFFER_BYTES = 1 << 18

# Both are ordered by the number of a value's type; a string and an array have no fixed size.
_KIND_NAMES = ("U8", "I8", "U16", "I16", "U32", "I32", "F32", "BOOL", "STRING", "ARRAY", "U64", "I64", "F64")
_SCALARS = {number: struct.Struct(f"<{form}") for number, form in enumerate("BbHhIifB--Qqd") if form != "-"}
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_COUNT32, _COUNT64 = _SCALARS[4], _SCALARS[10]


class HeaderError(Exception):
    """The file has no sound GGUF header; the message gives the reason without the file's name."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array's elements: their type's number, their count, and where they begin in the file, in bytes."""

    kind: int
    count: int
    offset: int = field(default=0, compare=False)


Value = int | float | bool | str | Array
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor stores numbers: a block of `elements` numbers takes `nbytes` bytes."""

    name: str
    elements: int
    nbytes: int


# By the numbers of enum ggml_type.
TENSOR_TYPES = {
    number: TensorType(name, elements, nbytes)
    for number, name, elements, nbytes in (
        (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210), (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98), (19, "IQ1_S", 256, 50), (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136), (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66), (39, "MXFP4", 32, 17),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    name: str
    type: TensorType
    shape: tuple[int, ...]  # Columns first.
    offset: int  # In bytes from the start of the file.
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    values: dict[str, Value]
    kinds: dict[str, int]  # The numbers of the values' types, by key.
    tensors: tuple[TensorInfo, ...]  # In the order of the file.

    def integer(self, key: str, maximum: int, *, minimum: int = 1, default: int | None = None) -> int:
        """A U32 of this range. Without a default, the key is required. Raises HeaderError."""
        allowed = str(minimum) if minimum == maximum else f"an integer from {minimum} to {maximum}"
        return self._expect(key, U32, default, lambda value: minimum <= value <= maximum, f"{allowed} as U32")

    def number(self, key: str, minimum: float, maximum: float, *, default: float | None = None) -> float:
        """An F32 of this range; NaN is outside. Raises HeaderError."""
        allowed = f"a number from {minimum:g} to {maximum:g} as F32"
        return self._expect(key, F32, default, lambda value: minimum <= value <= maximum, allowed)

    def text(self, key: str, *allowed: str, default: str | None = None) -> str:
        """One of these texts, or any if none is given. Raises HeaderError."""
        words = " or ".join(f'"{text}"' for text in allowed) or "a text"
        return self._expect(key, STRING, default, lambda value: not allowed or value in allowed, words)

    def array(self, key: str, kind: int, count: int | None = None) -> Array:
        """An array with this type and count of elements, if one is given. Raises HeaderError."""
        allowed = f"an array of {'' if count is None else f'{count} '}{_KIND_NAMES[kind]}"
        return self._expect(
            key, ARRAY, None, lambda value: value.kind == kind and count in (None, value.count), allowed
        )

    def _expect(self, key: str, kind: int, default: _T | None, is_allowed: Callable[[_T], bool], allowed: str) -> _T:
        value: Any = self.values.get(key, default)
        actual = self.kinds.get(key, kind)
        if value is not None and actual == kind and is_allowed(value):
            return value  # type: ignore[no-any-return]
        if isinstance(value, Array):
            got = f"an array of {value.count} {_KIND_NAMES[value.kind]}"
        else:
            got = shown(value) + (f" as {_KIND_NAMES[actual]}" if actual != kind else "")
        raise HeaderError(f"{key}: should be {allowed} (got {got})")


def read_strings(path: Path, array: Array) -> Iterator[bytes]:
    """The strings of an array of this file. Raises OSError."""
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        file.seek(array.offset)
        for _ in range(array.count):
            yield file.read(*_COUNT64.unpack(file.read(_COUNT64.size)))


def read_header(path: Path) -> Header:
    """Raises HeaderError for a header that llama.cpp would refuse or abort on, or that is absurdly large; OSError."""
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        head = file.read(8)
        if head not in _HEADS:
            raise HeaderError(f"should be a GGUF file of version 2 or 3 (it begins with {head.hex()})")
        reader = _Reader(file)
        tensors = reader.count(_COUNT64, MAX_TENSORS, "tensors")
        values, kinds = _read_values(reader, reader.count(_COUNT64, MAX_KEYS, "keys"))
        return Header(values, kinds, _read_tensors(reader, tensors, _alignment(Header(values, kinds, ()))))


class _Reader:
    """Reads the file forwards. Raises HeaderError where the file ends within the header, or the header is too long."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.offset = file.tell()  # Of the next byte.

    def take(self, nbytes: int) -> bytes:
        self._advance(nbytes)
        data = self._file.read(nbytes)
        if len(data) < nbytes:  # the file has just been cut
            raise HeaderError("ends within its header")
        return data

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def count(self, form: struct.Struct, maximum: int, what: str) -> int:
        count: int = self.number(form)
        if count > maximum:
            raise HeaderError(f"should have at most {maximum} {what} (got {count})")
        return count

    def text(self, maximum: int, what: str) -> str:
        try:
            text = self.take(self.count(_COUNT64, maximum, f"bytes of {what}")).decode()
        except UnicodeDecodeError as error:
            raise HeaderError(f"should have UTF-8 for {what} (byte {error.start} is not)") from None
        # llama.cpp would end the text there.
        if "\0" in text:
            raise HeaderError(f"should have no zero byte in {what}")
        return text

    def skip(self, nbytes: int) -> None:
        self._advance(nbytes)
        self._file.seek(self.offset)

    def skip_strings(self, count: int, what: str) -> None:
        # Each has a length of eight bytes at least. A vocabulary has 300,000 of them, so no methods are called here.
        self._check(self.offset + count * _COUNT64.size)
        read, seek, offset = self._file.read, self._file.seek, self.offset
        length_of, width = _COUNT64.unpack, _COUNT64.size
        for _ in range(count):
            if len(head := read(width)) < width:
                raise HeaderError(f"ends at byte {self.size}, within {what}")
            (length,) = length_of(head)
            if length > MAX_STRING_BYTES:
                raise HeaderError(f"should have at most {MAX_STRING_BYTES} bytes of {what} (got {length})")
            offset += width + length
            seek(offset)
        self._advance(offset - self.offset)

    def _advance(self, nbytes: int) -> None:
        self._check(self.offset + nbytes)
        self.offset += nbytes

    def _check(self, end: int) -> None:
        if end > self.size:
            raise HeaderError(f"ends at byte {self.size}, within its header, which goes on to {end} at least")
        if end > MAX_HEADER_BYTES:
            raise HeaderError(f"should have a header of at most {MAX_HEADER_BYTES} bytes (got {end} at least)")


def _read_values(reader: _Reader, count: int) -> tuple[dict[str, Value], dict[str, int]]:
    values: dict[str, Value] = {}
    kinds: dict[str, int] = {}
    for _ in range(count):
        key = reader.text(MAX_KEY_BYTES, "a key")
        if not key or key in values:
            raise HeaderError(f"should have every key once (got {shown(key)} again)" if key else "has an empty key")
        kinds[key] = reader.number(_COUNT32)
        values[key] = _read_value(reader, kinds[key], f"key {shown(key)}")
    return values, kinds


def _read_value(reader: _Reader, kind: int, what: str) -> Value:
    if kind == STRING:
        return reader.text(MAX_STRING_BYTES, what)
    if kind == ARRAY:
        return _skip_array(reader, what)
    if kind not in _SCALARS:
        raise HeaderError(f"{what}: should have a type from 0 to 12 (got {kind})")
    number: int | float = reader.number(_SCALARS[kind])
    if kind == BOOL and number > 1:
        raise HeaderError(f"{what}: should be 0 or 1 (got {number})")
    return bool(number) if kind == BOOL else number


def _skip_array(reader: _Reader, what: str) -> Array:
    kind, count = reader.number(_COUNT32), reader.number(_COUNT64)
    offset = reader.offset
    if kind == STRING:
        reader.skip_strings(count, what)
    elif kind in _SCALARS:
        reader.skip(count * _SCALARS[kind].size)
    else:
        raise HeaderError(f"{what}: should be an array of numbers, booleans or strings (its elements' type is {kind})")
    return Array(kind, count, offset)


def _alignment(header: Header) -> int:
    alignment = header.integer(_ALIGNMENT_KEY, MAX_ALIGNMENT, minimum=MIN_ALIGNMENT, default=MIN_ALIGNMENT)
    if alignment & (alignment - 1):
        raise HeaderError(f"{_ALIGNMENT_KEY}: should be a power of two (got {alignment})")
    return alignment


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    infos: dict[str, tuple[TensorType, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = reader.text(MAX_NAME_BYTES, "a tensor's name")
        if name in infos:
            raise HeaderError(f"should have every tensor once (got {shown(name)} again)")
        infos[name] = _read_tensor(reader, f"tensor {shown(name)}")
    data_start, expected = _aligned(reader.offset, alignment), 0
    tensors = []
    for name, (kind, shape, offset) in infos.items():
        what, nbytes = f"tensor {shown(name)}", prod(shape) // kind.elements * kind.nbytes
        if offset != expected:
            raise HeaderError(f"{what}: should begin at {expected}, right after the previous tensor (got {offset})")
        start = data_start + offset
        if start + nbytes > reader.size:
            raise HeaderError(f"{what}: ends at byte {start + nbytes}, but the file ends at {reader.size}")
        tensors.append(TensorInfo(name, kind, shape, start, nbytes))
        expected = _aligned(offset + nbytes, alignment)
    return tuple(tensors)


def _read_tensor(reader: _Reader, what: str) -> tuple[TensorType, tuple[int, ...], int]:
    dimensions = reader.count(_COUNT32, MAX_DIMENSIONS, f"dimensions of {what}")
    shape = tuple(reader.number(_COUNT64) for _ in range(dimensions))
    if not shape or 0 in shape:
        raise HeaderError(f"{what}: should have one dimension or more, none of them 0 (got {shown(shape)})")
    number = reader.number(_COUNT32)
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise HeaderError(f"{what}: should have a type of weights that is known (got {number})")
    if shape[0] % kind.elements:
        raise HeaderError(
            f"{what}: should have rows of whole blocks of {kind.name}, {kind.elements} numbers each (got {shape[0]})"
        )
    return kind, shape, reader.number(_COUNT64)


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
