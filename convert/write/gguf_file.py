"""The GGUF file: its metadata as a list, and a writer that streams the tensors after it."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.constants import GGUF_DEFAULT_ALIGNMENT
from gguf.gguf_writer import WriterState

from ..quantize.ggml import GgmlType
from ..read.chat_template import ChatTemplates
from ..read.config import MODEL_TYPE, ModelConfig
from ..read.tokenizer import Tokenizer

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_U32, _I32, _F32 = GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32
_BOOL, _STRING, _ARRAY = GGUFValueType.BOOL, GGUFValueType.STRING, GGUFValueType.ARRAY
# The spelling of the separator is GGUF's.
_ID_KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
# Sampling settings of generation_config.json, the defaults of llama.cpp's tools.
_SAMPLING = (
    ("top_k", "top_k", _I32),
    ("top_p", "top_p", _F32),
    ("min_p", "min_p", _F32),
    ("temperature", "temp", _F32),
    ("repetition_penalty", "penalty_repeat", _F32),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One metadata key with its GGUF type; arrays carry the type of their elements by their Python type."""

    key: str
    kind: GGUFValueType
    value: Any


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file; `shape` in checkpoint order (GGUF reverses it)."""

    name: str
    kind: GgmlType
    shape: tuple[int, ...]
    nbytes: int


def general_entries(
    name: str, licence: str | None, size_label: str, file_type: int, generation: dict[str, Any]
) -> list[Entry]:
    """`general.*`, without what upstream guesses from the folder's name."""
    entries = [
        Entry("general.type", _STRING, "model"),
        Entry("general.name", _STRING, name),
        Entry("general.size_label", _STRING, size_label),
        Entry("general.file_type", _U32, file_type),
        Entry("general.quantization_version", _U32, QUANTIZATION_VERSION),
    ]
    if licence is not None:
        entries.append(Entry("general.license", _STRING, licence))
    for source, target, kind in _SAMPLING:
        value = generation.get(source)
        # Hints for other programs: an odd value is left out, and is no error.
        if (type(value) is int and 0 <= value < 1 << 31) or (
            type(value) is float and kind is _F32 and 0 <= value < 1e6
        ):
            entries.append(Entry(f"general.sampling.{target}", kind, value))
    return entries


def architecture_entries(config: ModelConfig) -> list[Entry]:
    """`qwen2.*`, as llama.cpp reads them and upstream's converter writes them."""
    entries: list[tuple[str, GGUFValueType, Any]] = [
        ("block_count", _U32, config.block_count),
        ("context_length", _U32, config.context_length),
        ("embedding_length", _U32, config.embedding_length),
        ("feed_forward_length", _U32, config.feed_forward_length),
        ("attention.head_count", _U32, config.head_count),
        ("attention.head_count_kv", _U32, config.head_count_kv),
        ("rope.freq_base", _F32, config.rope_freq_base),
        ("attention.layer_norm_rms_epsilon", _F32, config.rms_epsilon),
    ]
    if (rope := config.rope_scaling) is not None:
        entries += [
            ("rope.scaling.type", _STRING, rope.kind),
            ("rope.scaling.factor", _F32, rope.factor),
            ("rope.scaling.original_context_length", _U32, rope.original_context_length),
            ("rope.scaling.yarn_ext_factor", _F32, rope.extrapolation_factor),
            ("rope.scaling.yarn_attn_factor", _F32, rope.attention_factor),
            ("rope.scaling.yarn_beta_fast", _F32, rope.beta_fast),
            ("rope.scaling.yarn_beta_slow", _F32, rope.beta_slow),
        ]
    if config.head_dim is not None:
        entries += [("attention.key_length", _U32, config.head_dim), ("attention.value_length", _U32, config.head_dim)]
    return [Entry(f"{MODEL_TYPE}.{key}", kind, value) for key, kind, value in entries if value is not None]


def tokenizer_entries(tokenizer: Tokenizer, templates: ChatTemplates) -> list[Entry]:
    """`tokenizer.*`."""
    entries = [
        Entry("tokenizer.ggml.model", _STRING, "gpt2"),
        Entry("tokenizer.ggml.pre", _STRING, tokenizer.pre),
        Entry("tokenizer.ggml.tokens", _ARRAY, tokenizer.tokens),
        Entry("tokenizer.ggml.token_type", _ARRAY, tokenizer.token_types),
        Entry("tokenizer.ggml.merges", _ARRAY, tokenizer.merges),
    ]
    for kind, token_id in tokenizer.special.ids.items():
        entries.append(Entry(f"tokenizer.ggml.{_ID_KEYS[kind]}_token_id", _U32, token_id))
    for kind, is_added in tokenizer.special.adds.items():
        entries.append(Entry(f"tokenizer.ggml.add_{kind}_token", _BOOL, is_added))
    for name, text in sorted(templates.named.items()):
        entries.append(Entry(f"tokenizer.chat_template.{name}", _STRING, text))
    if templates.named:
        entries.append(Entry("tokenizer.chat_templates", _ARRAY, sorted(templates.named)))
    if templates.default is not None:
        entries.append(Entry("tokenizer.chat_template", _STRING, templates.default))
    return entries


def padded(nbytes: int) -> int:
    """`nbytes` with the padding: each tensor begins at a multiple of the alignment."""
    return -(-nbytes // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT


def file_bytes(entries: Iterable[Entry], tensors: Sequence[TensorInfo]) -> int:
    """The size of the file that `write_gguf` writes."""
    return len(_header(entries, tensors)) + sum(padded(tensor.nbytes) for tensor in tensors)


def write_gguf(
    path: Path, entries: Iterable[Entry], tensors: Sequence[TensorInfo], data: Iterable[Iterator[memoryview]]
) -> None:
    """Writes the file, which is not synced. The same arguments give the same bytes.

    data: for each tensor in order, its bytes in parts; only one part is held at a time.
    """
    with path.open("wb") as out:
        out.write(_header(entries, tensors))
        for tensor, parts in zip(tensors, data, strict=True):
            written = sum(out.write(part) for part in parts)
            if written != tensor.nbytes:
                raise RuntimeError(f"{tensor.name}: {written} bytes instead of {tensor.nbytes}")
            out.write(bytes(padded(written) - written))


def _header(entries: Iterable[Entry], tensors: Sequence[TensorInfo]) -> bytes:
    """All bytes before the first tensor."""
    writer = GGUFWriter(None, MODEL_TYPE)
    for entry in entries:
        writer.add_key_value(entry.key, entry.value, entry.kind)
    for tensor in tensors:
        kind = GGMLQuantizationType(tensor.kind.value)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)
    header = io.BytesIO()
    # GGUFWriter writes to files that it opens itself.
    opened: Any = writer
    opened.fout, opened.state = [header], WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    header.write(bytes(padded(header.tell()) - header.tell()))
    return header.getvalue()
