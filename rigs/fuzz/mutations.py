"""A sound GGUF model with faults in its header, always the same for the same number."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edge_agent.gguf.types import TENSOR_TYPES
from tests.convert.gguf_reading import read_gguf
from tests.helpers.ggufs import ARRAY, BOOL, F32, I32, STRING, U32, gguf

_KINDS = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": U32, "i32": I32, "f32": F32, "bool": BOOL, "string": STRING}
_KINDS |= {"10": 10, "11": 11, "12": 12}
_TYPES = {kind.name: number for number, kind in TENSOR_TYPES.items()}
_INTEGERS = (0, 1, 2, 3, 7, 31, 33, 63, 64, 255, 512, 513, 600, 1024, 4096, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e-6, 2.0, 1e4, 1e30, 3e38, -3e38, float("inf"), float("nan"))
_TEXTS = (
    *("", "llama", "bert", "t5", "rwkv", "gpt2", "no_vocab", "yarn", "longrope", "linear", "none", "whitespace"),
    *("gemma4", "sarvam-moe", "llama-bpe", "deepseek-r1-qwen", "default", "mpt", "chatglm-bpe", "kimi-k2", "qwen3"),
)
# Keys that llama.cpp reads where a model has them.
_OPTIONAL = (
    "qwen2.attention.causal",
    "qwen2.attention.key_length",
    "qwen2.attention.value_length",
    "qwen2.attention.key_length_swa",
    "qwen2.attention.sliding_window",
    "qwen2.classifier.output_labels",
    "qwen2.embedding_length_out",
    "qwen2.expert_count",
    "qwen2.expert_group_count",
    "qwen2.expert_used_count",
    "qwen2.nextn_predict_layers",
    "qwen2.pooling_type",
    "qwen2.rope.dimension_count",
    "qwen2.rope.scale_linear",
    "qwen2.rope.scaling.attn_factor",
    "qwen2.rope.scaling.factor",
    "qwen2.rope.scaling.finetuned",
    "qwen2.rope.scaling.original_context_length",
    "qwen2.rope.scaling.type",
    "split.count",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.suppress_tokens",
    "tokenizer.ggml.token_type_count",
)


@dataclass(slots=True)
class Parts:
    """values: type number and content by key; tensors: (name, type number, shape, data)."""

    values: dict[str, tuple[int, Any]]
    tensors: list[tuple[str, int, tuple[int, ...], bytes]]


def read_parts(path: Path) -> Parts:
    found = read_gguf(path)
    values: dict[str, tuple[int, Any]] = {}
    for key, (name, content) in found.keys.items():
        element = name.removeprefix("array of ")
        values[key] = (_KINDS[name], content) if element == name else (ARRAY, (_KINDS[element], content))
    tensors = [(name, _TYPES[one.type], one.shape, bytes(one.data)) for name, one in found.tensors.items()]
    return Parts(values, tensors)


def mutated(parts: Parts, number: int) -> bytes:
    """The file with one to three faults."""
    dice = random.Random(number)
    parts = Parts(dict(parts.values), list(parts.tensors))
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        dice.choice(_CHANGES)(parts, dice)
    header, data = _written(parts)
    if dice.random() < 0.2:
        header[dice.randrange(len(header))] = dice.randrange(256)
    return bytes(header) + data


def _written(parts: Parts) -> tuple[bytearray, bytes]:
    tensors, data = [], bytearray()
    for name, number, shape, content in parts.tensors:
        kind = TENSOR_TYPES[number]
        nbytes = min(prod(shape) // kind.elements * kind.nbytes, 1 << 24)
        tensors.append((name, number, shape, len(data)))
        data += content[:nbytes].ljust(nbytes, b"\0")
        data += bytes(-len(data) % 32)
    values = {key: _packable(value) for key, value in parts.values.items()}
    return bytearray(gguf(values, tensors, b"")), bytes(data)


def _packable(value: tuple[int, Any]) -> tuple[int, Any]:
    try:
        gguf({"k": value}, [], b"")
    except (struct.error, OverflowError, TypeError, AttributeError, ValueError):
        kind = value[0]
        return kind, "" if kind == STRING else (U32, []) if kind == ARRAY else 0
    return value


def _content(kind: int, dice: random.Random) -> Any:
    if kind == STRING:
        return dice.choice(_TEXTS)
    if kind == ARRAY:
        element = dice.choice([0, U32, I32, F32, BOOL, STRING])
        return element, [_packable((element, _content(element, dice)))[1] for _ in range(dice.choice([0, 1, 4, 1024]))]
    return dice.choice(_NUMBERS if kind in (F32, 12) else _INTEGERS)


def _set_value(parts: Parts, dice: random.Random) -> None:
    key = dice.choice(list(parts.values))
    kind, content = parts.values[key]
    parts.values[key] = (kind, content if kind == ARRAY else _content(kind, dice))


def _change_kind(parts: Parts, dice: random.Random) -> None:
    key, kind = dice.choice(list(parts.values)), dice.randrange(13)
    content = parts.values[key][1]
    parts.values[key] = (kind, content if dice.random() < 0.5 else _content(kind, dice))


def _add_value(parts: Parts, dice: random.Random) -> None:
    key = dice.choice(_OPTIONAL)
    if key.endswith((".scores", "_labels", "suppress_tokens")):
        kind = ARRAY
    elif key.endswith((".causal", ".finetuned", "add_space_prefix")):
        kind = BOOL
    elif key.endswith(".type"):
        kind = STRING
    else:
        kind = F32 if key.endswith(("factor", "linear")) else 2 if key == "split.count" else U32
    parts.values[key] = (kind, _content(kind, dice))


def _drop_value(parts: Parts, dice: random.Random) -> None:
    del parts.values[dice.choice(list(parts.values))]


def _change_array(parts: Parts, dice: random.Random) -> None:
    arrays = [key for key, (kind, _) in parts.values.items() if kind == ARRAY]
    if not arrays:
        return
    key = dice.choice(arrays)
    element, items = parts.values[key][1]
    items = list(items)
    match dice.randrange(5):
        case 0:
            items = items[: dice.randrange(len(items) + 1)]
        case 1:
            items += items[: dice.choice([1, 2, 1024])]
        case 2 if items:
            items[dice.randrange(len(items))] = items[dice.randrange(len(items))]
        case 3:
            element = dice.choice([0, U32, I32, F32, STRING])
            items = [_packable((element, item))[1] for item in items]
        case _ if items:
            wild = ["", " ", "a b", "\0", "<|im_start|>", "[EMPTY_3]", b"\xff\xfe", "▁", "x" * 70_000]
            items[dice.randrange(len(items))] = dice.choice(wild) if element == STRING else _content(element, dice)
    parts.values[key] = (ARRAY, (element, [_packable((element, item))[1] for item in items]))


def _change_tensor(parts: Parts, dice: random.Random) -> None:
    at = dice.randrange(len(parts.tensors))
    name, number, shape, content = parts.tensors[at]
    match dice.randrange(6):
        case 0:
            number = dice.choice(list(TENSOR_TYPES))
        case 1:
            shape = shape[::-1]
        case 2:
            sides = list(shape)
            sides[dice.randrange(len(sides))] = dice.choice([1, 2, 32, 256, 512, 2**33])
            shape = tuple(sides)
        case 3:
            shape = (*shape, dice.choice([1, 2]))[:4]
        case 4:
            name = dice.choice([name + "s", name.replace("0", "9"), "output.weight", "rope_freqs.weight", "blk.0.x"])
        case _:
            del parts.tensors[at]
            return
    parts.tensors[at] = (name, number, shape, content)


_CHANGES: tuple[Callable[[Parts, random.Random], None], ...] = (
    _set_value,
    _set_value,
    _change_kind,
    _add_value,
    _add_value,
    _drop_value,
    _change_array,
    _change_array,
    _change_tensor,
    _change_tensor,
)
