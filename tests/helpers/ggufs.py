"""GGUF files for tests, made byte by byte, some of them sound, and some with wrong sizes and types."""

import struct
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest

from edge_agent.gguf.header import TENSOR_TYPES, HeaderError

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", 11: "q", 12: "d"}
# The model has a block of one head for keys, and two tokens.
MODEL_VALUES: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "qwen2"),
    "general.file_type": (U32, 7),
    "qwen2.block_count": (U32, 1),
    "qwen2.context_length": (U32, 2048),
    "qwen2.embedding_length": (U32, 32),
    "qwen2.feed_forward_length": (U32, 64),
    "qwen2.attention.head_count": (U32, 2),
    "qwen2.attention.head_count_kv": (U32, 1),
    "qwen2.attention.layer_norm_rms_epsilon": (F32, 1e-6),
    "tokenizer.ggml.model": (STRING, "gpt2"),
    "tokenizer.ggml.pre": (STRING, "qwen2"),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b"])),
    "tokenizer.ggml.token_type": (ARRAY, (I32, [1, 3])),
    "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])),
    "tokenizer.ggml.eos_token_id": (U32, 1),
}
ADAPTER_VALUES: dict[str, tuple[int, Any]] = {
    "general.type": (STRING, "adapter"),
    "general.architecture": (STRING, "qwen2"),
    "adapter.type": (STRING, "lora"),
}
MODEL_SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (32, 2),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_q.bias": (32,),
    "blk.0.attn_k.weight": (32, 16),
    "blk.0.attn_k.bias": (16,),
    "blk.0.attn_v.weight": (32, 16),
    "blk.0.attn_v.bias": (16,),
    "blk.0.attn_output.weight": (32, 32),
    "blk.0.ffn_norm.weight": (32,),
    "blk.0.ffn_gate.weight": (32, 64),
    "blk.0.ffn_up.weight": (32, 64),
    "blk.0.ffn_down.weight": (64, 32),
    "output_norm.weight": (32,),
}
# (name, type, shape with columns first, offset from where the tensors begin)
Tensor = tuple[str, int, Sequence[int], int]


def placed(shapes: Mapping[str, Sequence[int]], types: Mapping[str, int] | None = None) -> tuple[list[Tensor], int]:
    """Tensors one behind the other, in F32 where no type is given, and their size in bytes."""
    tensors: list[Tensor] = []
    at = 0
    for name, shape in shapes.items():
        number = (types or {}).get(name, 0)
        kind = TENSOR_TYPES[number]
        tensors.append((name, number, shape, at))
        at += -(-prod(shape) // kind.elements * kind.nbytes // 32) * 32
    return tensors, at


MODEL_TENSORS, _NBYTES = placed(MODEL_SHAPES)
WEIGHTS = b"weights " * (_NBYTES // 8)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(kind: int, content: Any) -> bytes:
    """The value without the kind itself. An array's content is the kind of its elements and a list of them."""
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
    """The smallest model, or one with other parts. `keys` is the number of keys that its header gives."""
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


def changed_model(
    values: Mapping[str, tuple[int, Any] | None] | None = None,
    shapes: Mapping[str, Sequence[int] | None] | None = None,
    types: Mapping[str, int] | None = None,
) -> bytes:
    """The smallest model with other values and tensors, and without those that are None."""
    given = {**MODEL_VALUES, **(values or {})}
    chosen = {**MODEL_SHAPES, **(shapes or {})}
    tensors, nbytes = placed({name: shape for name, shape in chosen.items() if shape is not None}, types)
    return gguf({key: value for key, value in given.items() if value is not None}, tensors, bytes(nbytes))


def written(folder: Path, data: bytes) -> Path:
    path = folder / "x.gguf"
    path.write_bytes(data)
    return path


def refused(read: Callable[[Path], object], folder: Path, data: bytes) -> str:
    """Why a file of this content is not read."""
    with pytest.raises(HeaderError) as caught:
        read(written(folder, data))
    assert str(caught.value).isprintable()
    return str(caught.value)
