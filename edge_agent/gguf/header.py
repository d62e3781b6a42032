"""Reads the header of a GGUF file: its values and the places of its tensors, before native code reads it.

Every count and length is checked against a limit. Tensors must lie one behind the other, as llama.cpp expects.
Arrays are most of a header; only their type, length and place are kept.
Source: ggml/src/gguf.cpp and ggml/include/ggml.h of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO

from edge_agent.core.errors import shown
from edge_agent.gguf.types import TENSOR_TYPES, TensorType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# A vocabulary of 152 000 tokens with its merges takes 6 MB.
MAX_HEADER_BYTES = 32 << 20
# Names and texts, which are kept.
MAX_TEXT_BYTES = 4 << 20
MAX_TENSORS = 10_000
MAX_KEYS = 4_000
MAX_KEY_BYTES = 256
MAX_NAME_BYTES = 63
MAX_STRING_BYTES = 1 << 20
MAX_DIMENSIONS = 4
# llama.cpp's buffers need this of a mapped address.
MIN_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32
_ALIGNMENT_KEY = "general.alignment"
_WINDOW_BYTES = 1 << 18

# By the number of a value's type.
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
_KIND_NAMES = ("U8", "I8", "U16", "I16", "U32", "I32", "F32", "BOOL", "STRING", "ARRAY", "U64", "I64", "F64")
_COUNT32, _COUNT64 = _SCALARS[4], _SCALARS[10]


class HeaderError(Exception):
    """The file has no sound GGUF header; the message gives the reason without the file's name."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array's elements: their type's number, their count, and their place in the file in bytes."""

    kind: int
    count: int
    offset: int = field(default=0, compare=False)
    nbytes: int = field(default=0, compare=False)


Value = int | float | bool | str | Array


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor. shape: columns first; offset: bytes from the start of the file."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """values, and the numbers of their types, by key; tensors: in the order of the file."""

    version: int
    values: dict[str, Value]
    kinds: dict[str, int]
    tensors: tuple[TensorInfo, ...]

    def integer(self, key: str, most: int, *, least: int = 1, default: int | None = None) -> int:
        """A U32 of this range. default: for a missing key; None = the key is required. Raises HeaderError."""
        value = self._value(key, U32, default)
        if not isinstance(value, int) or not least <= value <= most:
            allowed = str(least) if least == most else f"an integer from {least} to {most}"
            raise self._wrong(key, f"{allowed} as U32", U32)
        return value

    def number(self, key: str, least: float, most: float, *, default: float | None = None) -> float:
        """An F32 of this range; NaN is outside. default: as above. Raises HeaderError."""
        value = self._value(key, F32, default)
        if not isinstance(value, float) or not least <= value <= most:
            raise self._wrong(key, f"a number from {least:g} to {most:g} as F32", F32)
        return value

    def text(self, key: str, *allowed: str, default: str | None = None) -> str:
        """One of these texts. default: as above. Raises HeaderError."""
        value = self._value(key, STRING, default)
        if not isinstance(value, str) or value not in allowed:
            raise self._wrong(key, " or ".join(f'"{text}"' for text in allowed), STRING)
        return value

    def any_text(self, key: str) -> str | None:
        """Any text; None for a missing key. Raises HeaderError."""
        value = self._value(key, STRING, None)
        if key in self.values and not isinstance(value, str):
            raise self._wrong(key, "a text", STRING)
        return value if isinstance(value, str) else None

    def array(self, key: str, kind: int, count: int | None = None) -> Array:
        """An array with this type and count of elements; count None = any. Raises HeaderError."""
        value = self.values.get(key)
        if not isinstance(value, Array) or value.kind != kind or count not in (None, value.count):
            raise self._wrong(key, f"an array of {'' if count is None else f'{count} '}{_KIND_NAMES[kind]}", ARRAY)
        return value

    def _value(self, key: str, kind: int, default: Value | None) -> Value | None:
        return self.values.get(key, default) if self.kinds.get(key, kind) == kind else None

    def _wrong(self, key: str, allowed: str, kind: int) -> HeaderError:
        value = self.values.get(key)
        if isinstance(value, Array):
            found = f"an array of {value.count} {_KIND_NAMES[value.kind]}"
        else:
            found = shown(value) + (f" as {_KIND_NAMES[self.kinds[key]]}" if self.kinds.get(key, kind) != kind else "")
        return HeaderError(f"{key}: should be {allowed} (got {found})")


def read_strings(path: Path, array: Array) -> Iterator[bytes]:
    """The strings of an array of this file. Raises OSError."""
    with path.open("rb") as file:
        file.seek(array.offset)
        data = file.read(array.nbytes)
    length_at, width, at = _COUNT64.unpack_from, _COUNT64.size, 0
    while at + width <= len(data):
        (length,) = length_at(data, at)
        at += width + length
        yield data[at - length : at]


def read_header(path: Path) -> Header:
    """Raises HeaderError for a header that llama.cpp would refuse or abort on, or that is absurdly large; OSError."""
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] != MAGIC or len(head) < 8 or _COUNT32.unpack(head[4:])[0] not in VERSIONS:
            raise HeaderError(f"should be a GGUF file of version 2 or 3 (it begins with {head.hex()})")
        (version,) = _COUNT32.unpack(head[4:])
        reader = _Reader(file, os.fstat(file.fileno()).st_size, len(head))
        tensors = reader.count(_COUNT64, MAX_TENSORS, "tensors")
        values, kinds = _read_values(reader, reader.count(_COUNT64, MAX_KEYS, "keys"))
        return Header(version, values, kinds, _read_tensors(reader, tensors, _alignment(values, kinds)))


class _Reader:
    """Reads the file through a window that moves forward. Raises HeaderError where the file ends within the header."""

    def __init__(self, file: BinaryIO, size: int, at: int) -> None:
        self._file, self.size = file, size
        self._window = b""
        # The window's offset in the file, and the next byte's offset from there; it may lie behind the window.
        self._start, self._at = at, 0
        self._text_bytes = 0

    @property
    def at(self) -> int:
        """The next byte's offset in the file."""
        return self._start + self._at

    def take(self, nbytes: int) -> bytes:
        self._need(nbytes)
        self._at += nbytes
        return self._window[self._at - nbytes : self._at]

    def number(self, form: struct.Struct) -> int | float:
        (number,) = form.unpack(self.take(form.size))
        return number  # type: ignore[no-any-return]

    def count(self, form: struct.Struct, most: int, what: str) -> int:
        count = int(self.number(form))
        if count > most:
            raise HeaderError(f"should have at most {most} {what} (got {count})")
        return count

    def text(self, most: int, what: str) -> str:
        length = self.count(_COUNT64, most, f"bytes of {what}")
        self._text_bytes += length
        if self._text_bytes > MAX_TEXT_BYTES:
            raise HeaderError(f"should have at most {MAX_TEXT_BYTES} bytes of names and text (got more with {what})")
        try:
            found = self.take(length).decode()
        except UnicodeDecodeError as error:
            raise HeaderError(f"should have UTF-8 for {what} (byte {error.start} is not)") from None
        # llama.cpp would end the text there.
        if "\0" in found:
            raise HeaderError(f"should have no zero byte in {what}")
        return found

    def skip(self, nbytes: int) -> None:
        self._check(nbytes)
        self._at += nbytes

    def skip_strings(self, count: int, what: str) -> None:
        self._check(count * _COUNT64.size)
        length_at = _COUNT64.unpack_from
        while count:
            self._need(_COUNT64.size)
            window, at, last = self._window, self._at, len(self._window) - _COUNT64.size
            while count and at <= last:
                (length,) = length_at(window, at)
                if length > MAX_STRING_BYTES:
                    raise HeaderError(f"should have at most {MAX_STRING_BYTES} bytes of {what} (got {length})")
                at += _COUNT64.size + length
                count -= 1
            self._at = at
        self._check(0)

    def _need(self, nbytes: int) -> None:
        """Moves the window so that it holds the next `nbytes` bytes."""
        self._check(nbytes)
        if self._at + nbytes <= len(self._window):
            return
        self._start, self._at = self.at, 0
        self._file.seek(self._start)
        self._window = self._file.read(max(nbytes, _WINDOW_BYTES))
        if len(self._window) < nbytes:
            raise HeaderError(f"ends at byte {self._start + len(self._window)}, within its header")

    def _check(self, nbytes: int) -> None:
        end = self.at + nbytes
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
        kinds[key] = int(reader.number(_COUNT32))
        values[key] = _read_value(reader, kinds[key], f"key {shown(key)}")
    return values, kinds


def _read_value(reader: _Reader, kind: int, what: str) -> Value:
    if kind == STRING:
        return reader.text(MAX_STRING_BYTES, what)
    if kind == ARRAY:
        return _skip_array(reader, what)
    if kind not in _SCALARS:
        raise HeaderError(f"{what}: should have a type from 0 to 12 (got {kind})")
    number = reader.number(_SCALARS[kind])
    if kind != BOOL:
        return number
    if number > 1:
        raise HeaderError(f"{what}: should be 0 or 1 (got {number})")
    return bool(number)


def _skip_array(reader: _Reader, what: str) -> Array:
    kind, count = int(reader.number(_COUNT32)), int(reader.number(_COUNT64))
    offset = reader.at
    if kind == STRING:
        reader.skip_strings(count, what)
    elif kind in _SCALARS:
        reader.skip(count * _SCALARS[kind].size)
    else:
        raise HeaderError(f"{what}: should be an array of numbers, truths or strings (its elements' type is {kind})")
    return Array(kind, count, offset, reader.at - offset)


def _alignment(values: dict[str, Value], kinds: dict[str, int]) -> int:
    alignment = values.get(_ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if (
        kinds.get(_ALIGNMENT_KEY, U32) != U32
        or not isinstance(alignment, int)
        or not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise HeaderError(
            f"key {shown(_ALIGNMENT_KEY)}: should be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT} as U32 "
            f"(got {shown(alignment)} as {_KIND_NAMES[kinds[_ALIGNMENT_KEY]]})"
        )
    return alignment


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    found: dict[str, tuple[TensorType, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = reader.text(MAX_NAME_BYTES, "a tensor's name")
        if name in found:
            raise HeaderError(f"should have every tensor once (got {shown(name)} again)")
        found[name] = _read_tensor(reader, f"tensor {shown(name)}")
    start = at = _aligned(reader.at, alignment)
    tensors = []
    for name, (kind, shape, offset) in found.items():
        what, nbytes = f"tensor {shown(name)}", prod(shape) // kind.elements * kind.nbytes
        if start + offset != at:
            raise HeaderError(f"{what}: should begin at {at - start}, behind the one before it (got {offset})")
        if at + nbytes > reader.size:
            raise HeaderError(f"{what}: ends at byte {at + nbytes}, but the file at {reader.size}")
        tensors.append(TensorInfo(name, kind, shape, at, nbytes))
        at = _aligned(at + nbytes, alignment)
    return tuple(tensors)


def _read_tensor(reader: _Reader, what: str) -> tuple[TensorType, tuple[int, ...], int]:
    dimensions = reader.count(_COUNT32, MAX_DIMENSIONS, f"dimensions of {what}")
    shape = tuple(int(reader.number(_COUNT64)) for _ in range(dimensions))
    if not shape or 0 in shape:
        raise HeaderError(f"{what}: should have one dimension or more, none of them 0 (got {shown(shape)})")
    number = int(reader.number(_COUNT32))
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise HeaderError(f"{what}: should have a type of weights that is known (got {number})")
    if shape[0] % kind.elements:
        raise HeaderError(
            f"{what}: should have rows of whole blocks of {kind.name}, {kind.elements} numbers each (got {shape[0]})"
        )
    return kind, shape, int(reader.number(_COUNT64))


def _aligned(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment
