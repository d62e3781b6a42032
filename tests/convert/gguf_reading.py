"""GGUF files for comparisons, as gguf's own reader finds them, so that no error of ours can hide from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType

_NAMES = {0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 8: "string"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` has columns first, as in GGUF."""

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


def read_gguf(path: Path) -> Gguf:
    reader = GGUFReader(path)
    keys: dict[str, tuple[str, Any]] = {}
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            kind = _NAMES.get(field.types[-1], str(field.types[-1].value))
            keys[key] = (f"array of {kind}" if field.types[0] is GGUFValueType.ARRAY else kind, field.contents())
    tensors = {
        one.name: GgufTensor(one.tensor_type.name, tuple(one.shape.tolist()), memoryview(one.data).cast("B"))
        for one in reader.tensors
    }
    return Gguf(keys, tensors)
