"""A small GGUF reader for comparisons: everything typed, tensor data as slices of a mapping.

Written apart from the converter and from gguf's reader, so that an error in either cannot hide from it; and gguf's
takes seconds for a vocabulary of 150,000 tokens.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_NAMES = {0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 8: "string", 9: "array"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` as GGUF has it: columns first."""

    type: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class Gguf:
    """`keys` maps each key to its type's name and its value; `tensors` are in file order."""

    keys: dict[str, tuple[str, Any]]
    tensors: dict[str, GgufTensor]

    def values(self) -> dict[str, Any]:
        return {key: value for key, (_, value) in self.keys.items()}

    def types(self) -> dict[str, str]:
        return {name: tensor.type for name, tensor in self.tensors.items()}


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def string(self) -> str:
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8")

    def value(self, kind: int) -> tuple[str, Any]:
        if kind == _STRING:
            return "string", self.string()
        if kind == _ARRAY:
            element, count = self.take("I"), self.take("Q")
            return f"array of {_NAMES[element]}", [self.value(element)[1] for _ in range(count)]
        return _NAMES.get(kind, str(kind)), self.take(_SCALARS[kind])


def read_gguf(path: Path) -> Gguf:
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(data)
    assert (cursor.take("4s"), cursor.take("I")) == (b"GGUF", 3), path
    tensor_count, key_count = cursor.take("Q"), cursor.take("Q")
    keys: dict[str, tuple[str, Any]] = {}
    for _ in range(key_count):
        key = cursor.string()
        assert key not in keys, key
        keys[key] = cursor.value(cursor.take("I"))
    infos = []
    for _ in range(tensor_count):
        name, dimensions = cursor.string(), cursor.take("I")
        shape = tuple(cursor.take("Q") for _ in range(dimensions))
        infos.append((name, shape, GGMLQuantizationType(cursor.take("I")), cursor.take("Q")))
    tensors: dict[str, GgufTensor] = {}
    end = start = cursor.at + -cursor.at % 32
    for name, shape, kind, offset in infos:
        elements, nbytes = GGML_QUANT_SIZES[kind]
        size = prod(shape) // elements * nbytes
        assert name not in tensors, name
        assert offset % 32 == 0, name
        assert prod(shape) % elements == 0, name
        tensors[name] = GgufTensor(kind.name, shape, memoryview(data)[start + offset : start + offset + size])
        assert len(tensors[name].data) == size, f"{path} ends within {name}"
        end = max(end, start + offset + size + -size % 32)
    assert not tensors or end == len(data), f"{path} has {len(data) - end} bytes too many"
    return Gguf(keys, tensors)
