"""Hardened reader of one safetensors file.

A file begins with the length of the header as 8 bytes, little-endian. A JSON header follows, then the tensors, without
gaps or overlap.
Source: the safetensors format specification; the audit by Trail of Bits (2023) lists what unchecked headers lead to.

Data is read with pread, not through a mapping. If the file shrinks or the disk fails, a mapping kills the process by
SIGBUS and leaves half a bundle behind.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, Self

from ..errors import CheckpointError, escaped
from .files import MAX_JSON_BYTES, parse_object

HASH_BLOCK_BYTES = 1 << 20


class Dtype(StrEnum):
    """Number formats that a checkpoint may hold, by their safetensors names."""

    BF16 = "BF16"
    F16 = "F16"
    F32 = "F32"

    @property
    def nbytes(self) -> int:
        return 4 if self is Dtype.F32 else 2


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's place: `offset` counts from the start of the file, `shape` is in checkpoint order (rows first)."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    file: "SafetensorsFile"

    rows: Sequence[int] | None = None  # If set, only these rows are read, in ascending order; `shape` counts only them.

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fills `buffer` with the tensor's bytes from `start` on. Raises CheckpointError if the file ends early."""
        if self.rows is None:
            self.file.read_into(buffer, self.offset + start)
            return
        nbytes, at = self.shape[1] * self.dtype.nbytes, 0
        for first, count in _runs(self.rows[start // nbytes : (start + len(buffer)) // nbytes]):
            self.file.read_into(buffer[at : at + count * nbytes], self.offset + first * nbytes)
            at += count * nbytes


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first row of each run of rows that follow each other, and how many there are."""
    for _, group in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]):
        numbers = [row for _, row in group]
        yield numbers[0], len(numbers)


class SafetensorsFile:
    """One open safetensors file whose header has been checked completely.

    `tensors` maps each name to its place. Everything is read through one descriptor, so that replacing the file
    meanwhile cannot mix two checkpoints. Raises CheckpointError for any violation.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._shown = escaped(path.name)
        # Opening a FIFO would never return.
        if not path.is_file():
            raise CheckpointError(f"{self._shown}: {'not a regular file' if path.exists() else 'the file is missing'}")
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointError(f"{self._shown}: cannot be opened: {error.strerror}") from None
        try:
            self.nbytes = os.fstat(self._fd).st_size
            self.tensors = self._read_header()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills `buffer` from `offset` on. Raises CheckpointError if the file is shorter than it was when opened."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(f"{self._shown}: reading at {offset + done} failed: {error.strerror}") from None
            if count == 0:
                raise CheckpointError(f"{self._shown}: the file ends at byte {offset + done}; it had {self.nbytes}")
            done += count

    def sha256(self) -> str:
        digest, block = hashlib.sha256(), memoryview(bytearray(HASH_BLOCK_BYTES))
        for offset in range(0, self.nbytes, HASH_BLOCK_BYTES):
            part = block[: min(HASH_BLOCK_BYTES, self.nbytes - offset)]
            self.read_into(part, offset)
            digest.update(part)
        return digest.hexdigest()

    def _read_header(self) -> dict[str, StoredTensor]:
        prefix = bytearray(8)
        self.read_into(memoryview(prefix), 0)
        if prefix == b"version ":
            raise CheckpointError(f"{self._shown}: a Git LFS pointer; run `git lfs pull` in its folder to get the file")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_JSON_BYTES:
            raise CheckpointError(f"{self._shown}: header of {length} bytes, at most {MAX_JSON_BYTES} are allowed")
        text = bytearray(length)
        self.read_into(memoryview(text), 8)
        header = parse_object(bytes(text), f"{self._shown}: header")
        header.pop("__metadata__", None)
        at = data_start = 8 + length
        tensors = {name: self._check_entry(name, entry, data_start) for name, entry in header.items()}
        for tensor in sorted(tensors.values(), key=lambda t: t.offset):
            if tensor.offset != at:
                raise CheckpointError(
                    f"{self._shown}: tensor {escaped(tensor.name)} begins at {tensor.offset - data_start}, "
                    f"{at - data_start} is expected: tensors may not overlap or leave gaps"
                )
            at += tensor.nbytes
        if at != self.nbytes:
            fault = "truncated" if at > self.nbytes else "has bytes after the last tensor"
            raise CheckpointError(f"{self._shown}: {fault}: {self.nbytes} bytes, the header describes {at}")
        return tensors

    def _check_entry(self, name: str, entry: Any, data_start: int) -> StoredTensor:
        where = f"{self._shown}: tensor {escaped(name)}"
        match entry:
            case {"dtype": str(dtype_name), "shape": [_, *_] as shape, "data_offsets": [_, _] as offsets}:
                # bool is an int to Python but not to JSON.
                if not all(type(item) is int and item >= 0 for item in (*shape, *offsets)):
                    raise CheckpointError(f"{where}: shape and data_offsets must hold integers of at least 0")
            case _:
                raise CheckpointError(f"{where}: the entry must hold dtype, shape and two data_offsets")
        try:
            dtype = Dtype(dtype_name)
        except ValueError:
            allowed = ", ".join(Dtype)
            raise CheckpointError(f"{where}: dtype {escaped(dtype_name)}, allowed are {allowed}") from None
        (begin, end), nbytes = offsets, prod(shape) * dtype.nbytes
        if end - begin != nbytes:
            raise CheckpointError(
                f"{where}: {end - begin} bytes between its data_offsets, "
                f"dtype {dtype.value} and shape {escaped(str(shape))} need {escaped(str(nbytes))}"
            )
        return StoredTensor(name, dtype, tuple(shape), data_start + begin, nbytes, self)
