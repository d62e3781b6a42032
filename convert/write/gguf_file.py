"""GGUF files of models and adapters, with metadata as a list and a writer that streams the tensors after it."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter
from gguf.constants import GGUF_DEFAULT_ALIGNMENT
from gguf.gguf_writer import WriterState

from ..agent import ALL_TOKENS_KEY, FIELDS_KEY
from ..quantize.ggml import GgmlType
from ..read.config import MODEL_TYPE, Qwen2Config
from ..read.lora import Lora
from ..read.tokenizer import Tokenizer

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_U32, _I32, _F32 = GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32
_BOOL, _STRING, _ARRAY = GGUFValueType.BOOL, GGUFValueType.STRING, GGUFValueType.ARRAY
# Key, type and value; the Python type of an array's elements decides theirs.
Entry = tuple[str, GGUFValueType, Any]
# The spelling of the separator is GGUF's.
_ID_KEYS = {
    "bos": "bos",
    "eos": "eos",
    "eot": "eot",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
}
# Sampling settings of generation_config.json, the defaults of llama.cpp's tools.
_SAMPLING = (
    ("top_k", "top_k", _I32),
    ("top_p", "top_p", _F32),
    ("min_p", "min_p", _F32),
    ("temperature", "temp", _F32),
    ("repetition_penalty", "penalty_repeat", _F32),
)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the file; `shape` in checkpoint order (GGUF reverses it)."""

    name: str
    kind: GgmlType
    shape: tuple[int, ...]
    nbytes: int


def general_entries(
    name: str, licence: str | None, size_label: str, file_type: int, generation: dict[str, Any]
) -> list[Entry]:
    """The entries `general.*`, without what upstream guesses from the folder's name."""
    entries = [
        ("general.type", _STRING, "model"),
        ("general.name", _STRING, name),
        ("general.size_label", _STRING, size_label),
        ("general.file_type", _U32, file_type),
        ("general.quantization_version", _U32, QUANTIZATION_VERSION),
    ]
    if licence is not None:
        entries.append(("general.license", _STRING, licence))
    for source, target, kind in _SAMPLING:
        value = generation.get(source)
        # These are only hints for other programs, so an odd value is left out and not an error.
        if (type(value) is int and 0 <= value < 1 << 31) or (
            type(value) is float and kind is _F32 and 0 <= value < 1e6
        ):
            entries.append((f"general.sampling.{target}", kind, value))
    return entries


def architecture_entries(config: Qwen2Config) -> list[Entry]:
    """The entries `qwen2.*`, as llama.cpp reads them and upstream's converter writes them."""
    entries: list[Entry] = [
        ("block_count", _U32, config.num_hidden_layers),
        ("context_length", _U32, config.max_position_embeddings),
        ("embedding_length", _U32, config.hidden_size),
        ("feed_forward_length", _U32, config.intermediate_size),
        ("attention.head_count", _U32, config.num_attention_heads),
        ("attention.head_count_kv", _U32, config.num_key_value_heads),
        ("rope.freq_base", _F32, config.rope_base),
        ("attention.layer_norm_rms_epsilon", _F32, config.rms_norm_eps),
    ]
    if (rope := config.rope).rope_type != "default":
        entries += [("rope.scaling.type", _STRING, rope.rope_type), ("rope.scaling.factor", _F32, rope.factor)]
    if rope.rope_type == "yarn":
        entries += [
            ("rope.scaling.original_context_length", _U32, rope.original_max_position_embeddings),
            ("rope.scaling.yarn_ext_factor", _F32, rope.extrapolation_factor),
            ("rope.scaling.yarn_attn_factor", _F32, rope.attention_factor),
            ("rope.scaling.yarn_beta_fast", _F32, rope.beta_fast),
            ("rope.scaling.yarn_beta_slow", _F32, rope.beta_slow),
        ]
    if config.head_dim is not None:
        entries += [("attention.key_length", _U32, config.head_dim), ("attention.value_length", _U32, config.head_dim)]
    return [(f"{MODEL_TYPE}.{key}", kind, value) for key, kind, value in entries if value is not None]


def tokenizer_entries(tokenizer: Tokenizer, chat_template: str | None) -> list[Entry]:
    entries: list[Entry] = [
        ("tokenizer.ggml.model", _STRING, "gpt2"),
        ("tokenizer.ggml.pre", _STRING, tokenizer.pre),
        ("tokenizer.ggml.tokens", _ARRAY, tokenizer.tokens),
        ("tokenizer.ggml.token_type", _ARRAY, tokenizer.token_types),
        ("tokenizer.ggml.merges", _ARRAY, tokenizer.merges),
    ]
    for kind, token_id in tokenizer.special_ids.items():
        entries.append((f"tokenizer.ggml.{_ID_KEYS[kind]}_token_id", _U32, token_id))
    for kind, is_added in tokenizer.adds.items():
        entries.append((f"tokenizer.ggml.add_{kind}_token", _BOOL, is_added))
    if chat_template is not None:
        entries.append(("tokenizer.chat_template", _STRING, chat_template))
    return entries


def agent_entries(fields: str | None, tokens: int, all_tokens: int) -> list[Entry]:
    """What only the agent reads: how a trained model reads an input, and the size of a vocabulary that was cut."""
    entries = list[Entry]()
    if fields is not None:
        entries.append((FIELDS_KEY, _STRING, fields))
    if tokens < all_tokens:
        entries.append((ALL_TOKENS_KEY, _U32, all_tokens))
    return entries


def padded(nbytes: int) -> int:
    """`nbytes` with the padding: each tensor begins at a multiple of the alignment."""
    return -(-nbytes // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT


def file_bytes(entries: Iterable[Entry], tensors: Sequence[PlannedTensor]) -> int:
    return len(_header(entries, tensors)) + sum(padded(tensor.nbytes) for tensor in tensors)


def write_gguf(
    path: Path, entries: Iterable[Entry], tensors: Sequence[PlannedTensor], data: Iterable[Iterable[memoryview]]
) -> None:
    """`data` holds each tensor's bytes in parts, in order. Equal arguments give equal bytes. The file is not synced."""
    with path.open("wb") as out:
        out.write(_header(entries, tensors))
        for tensor, parts in zip(tensors, data, strict=True):
            written = sum(out.write(part) for part in parts)
            if written != tensor.nbytes:
                raise RuntimeError(f"{tensor.name}: {written} bytes instead of {tensor.nbytes}")
            out.write(bytes(padded(written) - written))


def write_adapter(path: Path, name: str, lora: Lora) -> None:
    """Writes the low-rank updates that llama.cpp adds to a model's own matrices, in F16.

    Source: src/llama-adapter.cpp and convert_lora_to_gguf.py of the llama.cpp that llama-cpp-python 0.3.36 vendors.
    """
    entries: list[Entry] = [
        ("general.type", _STRING, "adapter"),
        ("general.name", _STRING, name),
        ("adapter.type", _STRING, "lora"),
        ("adapter.lora.alpha", _F32, lora.alpha),
    ]
    sides = [(f"{update.name}.lora_{side}", getattr(update, side)) for update in lora.updates for side in "ab"]
    infos = [PlannedTensor(tensor, GgmlType.F16, numbers.shape, numbers.nbytes) for tensor, numbers in sides]
    write_gguf(path, entries, infos, ([numbers.data.cast("B")] for _, numbers in sides))


def _header(entries: Iterable[Entry], tensors: Sequence[PlannedTensor]) -> bytes:
    writer = GGUFWriter(None, MODEL_TYPE)
    for key, value_kind, value in entries:
        writer.add_key_value(key, value, value_kind)
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind)
    header = io.BytesIO()
    # GGUFWriter writes to files that it opens itself.
    opened: Any = writer
    opened.fout, opened.state = [header], WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    header.write(bytes(padded(header.tell()) - header.tell()))
    return header.getvalue()
