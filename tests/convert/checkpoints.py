"""Small synthetic Qwen2 checkpoints, written from numpy alone."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.read.tokenizer import SPLIT_REGEX

Array = np.ndarray[Any, Any]
MERGED = (("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"))
ADDED = (("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<tool_call>", False))
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def to_bf16(values: Array) -> Array:
    """BF16 as 16-bit patterns, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def byte_alphabet() -> list[str]:
    """GPT-2's 256 printable stand-ins for the byte values."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]


@dataclass
class CheckpointFiles:
    """A checkpoint in memory, to be changed by a test before it is written. uint16 arrays are BF16."""

    config: dict[str, Any]
    tokenizer: dict[str, Any]
    tokenizer_config: dict[str, Any]
    tensors: dict[str, Array]
    shards: int = 1
    more: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config", "tokenizer", "tokenizer_config"):
            (folder / f"{name}.json").write_text(json.dumps(getattr(self, name), ensure_ascii=False), "utf-8")
        for name, text in self.more.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, "utf-8")
        if self.shards == 1:
            write_safetensors(folder / "model.safetensors", self.tensors)
            return folder
        for i in range(self.shards):
            part = dict(list(self.tensors.items())[i :: self.shards])
            write_safetensors(folder / f"model-{i + 1:05d}-of-{self.shards:05d}.safetensors", part)
        return folder


def safetensors_bytes(tensors: dict[str, Array]) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    names = {"uint16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in tensors.items():
        offsets = [at, at + values.nbytes]
        header[name] = {"dtype": names[values.dtype.name], "shape": list(values.shape), "data_offsets": offsets}
        at += values.nbytes
    return header, b"".join(values.tobytes() for values in tensors.values())


def pack_safetensors(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_safetensors(path: Path, tensors: dict[str, Array]) -> None:
    path.write_bytes(pack_safetensors(*safetensors_bytes(tensors)))


def make_checkpoint(
    *,
    layers: int = 2,
    hidden: int = 256,
    feed_forward: int = 512,
    heads: int = 4,
    heads_kv: int = 2,
    vocab_size: int = 320,
    tied: bool = True,
    shards: int = 1,
) -> CheckpointFiles:
    """A Qwen2 checkpoint with random weights (always the same), 265 tokens and padding up to `vocab_size`."""
    vocab = {token: i for i, token in enumerate([*byte_alphabet(), *(left + right for left, right in MERGED)])}
    added = [
        {"id": len(vocab) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": special}
        for i, (text, special) in enumerate(ADDED)
    ]
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "bos_token_id": added[0]["id"],
        "eos_token_id": added[2]["id"],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads_kv,
        "max_position_embeddings": 512,
        "use_sliding_window": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "vocab_size": vocab_size,
    }
    split = {"type": "Split", "pattern": {"Regex": SPLIT_REGEX}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, dict(BYTE_LEVEL)]},
        "post_processor": dict(BYTE_LEVEL),
        "decoder": dict(BYTE_LEVEL),
        "model": {"type": "BPE", "byte_fallback": False, "vocab": vocab, "merges": [f"{a} {b}" for a, b in MERGED]},
    }
    tokenizer_config = {
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "chat_template": TEMPLATE,
    }
    shapes = tensor_shapes(layers, hidden, feed_forward, hidden // heads * heads_kv, vocab_size)
    tensors = make_tensors(shapes if tied else shapes | {"lm_head.weight": (vocab_size, hidden)})
    return CheckpointFiles(config, tokenizer, tokenizer_config, tensors, shards)


def tensor_shapes(layers: int, hidden: int, feed_forward: int, kv: int, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a Qwen2 model, but for `lm_head.weight`."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    for i in range(layers):
        prefix = f"model.layers.{i}"
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (rows, hidden)
            shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (feed_forward, hidden)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (feed_forward, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, feed_forward)
    return shapes


def make_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    random = np.random.default_rng(7)
    scale = np.float32(0.05)
    return {name: to_bf16(random.standard_normal(shape, np.float32) * scale) for name, shape in shapes.items()}
