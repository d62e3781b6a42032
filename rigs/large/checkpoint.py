"""Checkpoints with the shapes of published models, and random weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from tests.convert.checkpoints import tensor_shapes

_SLAB = 8 << 20
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Shape:
    """The part of a published config.json that sizes depend on."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    heads_kv: int
    vocabulary: int
    is_tied: bool
    rope: float
    shards: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of the checkpoint, by its name."""
        kv = self.hidden // self.heads * self.heads_kv
        shapes = tensor_shapes(self.layers, self.hidden, self.feed_forward, kv, self.vocabulary)
        return shapes if self.is_tied else shapes | {"lm_head.weight": (self.vocabulary, self.hidden)}


# config.json of Qwen/Qwen2.5-0.5B, -1.5B and -7B, and of deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B.
SHAPES = {
    "0.5b": Shape(896, 4864, 24, 14, 2, 151936, is_tied=True, rope=1e6, shards=1),
    "1.5b": Shape(1536, 8960, 28, 12, 2, 151936, is_tied=True, rope=1e6, shards=1),
    "r1-1.5b": Shape(1536, 8960, 28, 12, 2, 151936, is_tied=False, rope=1e4, shards=2),
    "7b": Shape(3584, 18944, 28, 28, 4, 152064, is_tied=False, rope=1e6, shards=4),
}


def write_checkpoint(folder: Path, shape: Shape, tokenizer: Path) -> None:
    """Writes it, with the tokenizer of another checkpoint."""
    folder.mkdir(parents=True)
    for name in _TOKENIZER_FILES:
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    config = json.loads((tokenizer / "config.json").read_bytes())
    config |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads_kv,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.is_tied,
        "rope_theta": shape.rope,
        "max_window_layers": shape.layers,
    }
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    names = list(shape.tensors().items())
    draw = np.random.default_rng(0)
    for number in range(shape.shards):
        name = f"model-{number + 1:05}-of-{shape.shards:05}" if shape.shards > 1 else "model"
        _write_safetensors(folder / f"{name}.safetensors", dict(names[number :: shape.shards]), draw)


def _write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], draw: np.random.Generator) -> None:
    header, at = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for numbers in _weights(name, shape, draw):
                file.write((numbers.view(np.uint32) >> 16).astype(np.uint16).data)


def _weights(
    name: str, shape: tuple[int, ...], draw: np.random.Generator
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Norms of 1, no biases, and matrices that keep the size of what they are multiplied with."""
    count = prod(shape)
    if len(shape) == 1:
        yield np.full(count, 0.0 if name.endswith("bias") else 1.0, np.float32)
        return
    for first in range(0, count, _SLAB):
        yield draw.standard_normal(min(_SLAB, count - first), np.float32) * np.float32(shape[1] ** -0.5)
