"""GGUF files for tests, byte by byte: sound ones, and ones that lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", 11: "q", 12: "d"}
MODEL_VALUES: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "qwen2"),
    "general.file_type": (U32, 7),
    "qwen2.context_length": (U32, 2048),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b"])),
}
WEIGHTS = b"weights " * 8
# (name, type, shape with columns first, offset from where the tensors begin)
Tensor = tuple[str, int, Sequence[int], int]
MODEL_TENSORS: list[Tensor] = [("token_embd.weight", 0, (8, 2), 0)]


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(kind: int, content: Any) -> bytes:
    """Without the kind itself. An array's content is the kind of its elements and a list of them."""
    if kind == STRING:
        return text(content)
    if kind == ARRAY:
        element, items = content
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
    return struct.pack(f"<{_FORMS[kind]}", content)


def gguf(
    values: Mapping[Any, tuple[int, Any]] | None = None,
    tensors: Sequence[Tensor] | None = None,
    data: bytes = WEIGHTS,
    *,
    version: int = 3,
    alignment: int = 32,
    keys: int | None = None,
) -> bytes:
    """A model that lacks too much to load, unless something else is given. keys: how many it says there are."""
    given = MODEL_VALUES if values is None else values
    tensors = MODEL_TENSORS if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(given) if keys is None else keys)
    head += b"".join(
        text(key) + struct.pack("<I", kind) + value(kind, content) for key, (kind, content) in given.items()
    )
    for name, kind, shape, offset in tensors:
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += text(name) + dimensions + struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % alignment) + data
