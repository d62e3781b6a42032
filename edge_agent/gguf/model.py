"""Checks that a GGUF file is a qwen2 model that the agent can run, and reads its properties.

What llama.cpp refuses in words itself, such as missing tensors and wrong shapes, is left to it. Checked here are the
values that it aborts on, or computes wrong answers with.
Source: src/llama-model.cpp (load_hparams), src/llama-vocab.cpp (llama_vocab::impl::load), src/models/qwen2.cpp and
ggml/src/ggml-cpu/binary-ops.cpp of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from edge_agent.core.wording import first_fault, shown
from edge_agent.gguf.field_table import FieldTable
from edge_agent.gguf.header import I32, STRING, Array, Header, HeaderError, read_header, read_strings

ARCHITECTURE = "qwen2"
MODELS = "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen"
# llama.h's enum llama_ftype. For other values the tensors decide.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
}  # fmt: skip
_MAX_FILE_TYPE = 2**32 - 1
_MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS
# Positions are signed 32-bit numbers.
_MAX_CONTEXT = (1 << 31) - 1
_MAX_WIDTH = 1 << 24
_MAX_HEADS = 1 << 16
_MAX_TOKENS = 1 << 24
_MAX_NUMBER = 1e30
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
# They belong to other architectures; llama.cpp aborts on each of them.
_MUST_BE_ZERO = (
    "nextn_predict_layers",
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_group_used_count",
)
# How a model that `edge-convert train` made reads an input.
FIELDS_KEY = "edge-agent.fields"
# The size of the whole vocabulary, if `edge-convert --vocabulary` cut it.
ALL_TOKENS_KEY = "edge-agent.all_tokens"
_TEMPLATE = "tokenizer.chat_template"
_VOCABULARY, _ID = "tokenizer.ggml.", "_token_id"
TOKENS_KEY = f"{_VOCABULARY}tokens"
# llguidance panics at more than 1024.
_MAX_TOKEN_BYTES = 1000
# The tokens of these are raw text, not bytes; llama.cpp aborts on a blank.
_NOT_OF_BYTES = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    quantization: str  # llama.cpp's name for the mix of types, otherwise the type of most bytes.
    context_length: int
    tokens: int  # The size of its vocabulary.
    all_tokens: int  # The size of its checkpoint's vocabulary, of which its own may be a part.
    chat_template_sha256: str | None
    bytes_per_token: int  # The bytes of weights that each step reads.
    fields: FieldTable | None = None  # What it reads, if `edge-convert train` made it.


def read_model_facts(path: Path) -> ModelFacts:
    """Raises HeaderError for a file that llama.cpp would abort on, or compute wrong answers with; OSError."""
    header = read_header(path)
    if (found := header.text("general.architecture")) != ARCHITECTURE:
        raise HeaderError(f"general.architecture: {shown(found)} is not supported, only {ARCHITECTURE} is ({MODELS})")
    header.text("general.type", "model", default="model")
    # llama.cpp would read the other parts from files beside it.
    if (parts := header.values.get("split.count", 0)) not in (0, 1):
        raise HeaderError(f"split.count: should be 1, the whole model in one file (got {shown(parts)})")
    _check_sizes(header)
    _check_numbers(header)
    tokens = _check_vocabulary(path, header)
    for tensor in header.tensors:
        # llama.cpp has kernels for norms and biases in F32 only.
        if tensor.name.endswith(("_norm.weight", ".bias")) and tensor.type.name != "F32":
            raise HeaderError(f"tensor {shown(tensor.name)}: should be F32 (got {tensor.type.name})")
    digest = hashlib.sha256(header.text(_TEMPLATE).encode()).hexdigest() if _TEMPLATE in header.values else None
    return ModelFacts(
        quantization=_quantization(header),
        context_length=header.integer(_key("context_length"), _MAX_CONTEXT),
        tokens=tokens,
        chat_template_sha256=digest,
        bytes_per_token=_bytes_per_token(header),
        fields=_read_fields(header),
        all_tokens=header.integer(ALL_TOKENS_KEY, _MAX_TOKENS, minimum=tokens, default=tokens),
    )


def _bytes_per_token(header: Header) -> int:
    """The bytes of all matrices but an embedding that is not also the output; a step reads only a few rows of that."""
    has_output = any(tensor.name == "output.weight" for tensor in header.tensors)
    skipped = "token_embd.weight" if has_output else None
    return sum(tensor.nbytes for tensor in header.tensors if len(tensor.shape) > 1 and tensor.name != skipped)


def _read_fields(header: Header) -> FieldTable | None:
    if FIELDS_KEY not in header.values:
        return None
    try:
        return FieldTable.model_validate_json(header.text(FIELDS_KEY))
    except ValidationError as error:
        raise HeaderError(f"{FIELDS_KEY}: {first_fault(error)}") from error


def _key(name: str) -> str:
    return f"{ARCHITECTURE}.{name}"


def _check_sizes(header: Header) -> None:
    header.integer(_key("block_count"), _MAX_BLOCKS)
    header.integer(_key("feed_forward_length"), _MAX_WIDTH)
    width = header.integer(_key("embedding_length"), _MAX_WIDTH)
    heads = header.integer(_key("attention.head_count"), _MAX_HEADS)
    heads_kv = header.integer(_key("attention.head_count_kv"), _MAX_HEADS, default=heads)
    if width % heads or width // heads % 2:
        allowed = f"a divisor of the embedding's {width} that leaves heads of an even length"
        raise HeaderError(f"{_key('attention.head_count')}: should be {allowed} (got {heads})")
    if heads % heads_kv:
        raise HeaderError(
            f"{_key('attention.head_count_kv')}: should be a divisor of the {heads} heads (got {heads_kv})"
        )
    head = width // heads
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        header.integer(_key(name), head, minimum=head, default=head)
    header.integer(_key("embedding_length_out"), width, minimum=width, default=width)
    for name in _MUST_BE_ZERO:
        header.integer(_key(name), 0, minimum=0, default=0)


def _check_numbers(header: Header) -> None:
    header.number(_key("attention.layer_norm_rms_epsilon"), 1 / _MAX_NUMBER, _MAX_NUMBER)
    # With 1 or less, the angles of later positions overflow.
    header.number(_key("rope.freq_base"), 2.0, _MAX_NUMBER, default=10000.0)
    header.text(_key("rope.scaling.type"), *_ROPE_SCALINGS, default="linear")
    for name in ("rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"):
        header.number(_key(name), 1e-6, 1e6, default=1.0)
    header.integer(_key("rope.scaling.original_context_length"), _MAX_CONTEXT, default=1)
    if header.values.get(_key("attention.causal"), True) is not True:
        raise HeaderError(
            f"{_key('attention.causal')}: should be true, because answers are generated token by token (got false)"
        )


def _check_vocabulary(path: Path, header: Header) -> int:
    """Byte-level BPE with distinct tokens. Gives their number."""
    header.text(f"{_VOCABULARY}model", "gpt2")
    if (pre := header.values.get(f"{_VOCABULARY}pre")) in _NOT_OF_BYTES:
        raise HeaderError(f"{_VOCABULARY}pre: should be of a vocabulary of bytes, as qwen2 is (got {shown(pre)})")
    tokens = header.array(TOKENS_KEY, STRING)
    header.array(f"{_VOCABULARY}merges", STRING)
    header.array(f"{_VOCABULARY}token_type", I32, tokens.count)
    # llama.cpp uses token 11 where one is missing.
    adds_first = header.values.get(f"{_VOCABULARY}add_bos_token") is True
    required = [f"{_VOCABULARY}{name}{_ID}" for name in (("eos", "bos") if adds_first else ("eos",))]
    named = [key for key in header.values if key.startswith(_VOCABULARY) and key.endswith(_ID)]
    for key in required + named:
        header.integer(key, tokens.count - 1, minimum=0)
    _check_distinct(path, tokens)
    return tokens.count


def _check_distinct(path: Path, tokens: Array) -> None:
    seen: set[bytes] = set()
    for number, token in enumerate(read_strings(path, tokens)):
        # llama.cpp's name for an empty token.
        text = token or b"[EMPTY_%d]" % number
        if text not in seen and b"\0" not in text and len(text) <= _MAX_TOKEN_BYTES:
            seen.add(text)
            continue
        allowed = f"every token once, of at most {_MAX_TOKEN_BYTES} bytes and without a zero byte"
        raise HeaderError(
            f"{TOKENS_KEY}: should have {allowed} (got {shown(text.decode(errors='replace'))} as {number})"
        )


def _quantization(header: Header) -> str:
    file_type = header.integer("general.file_type", _MAX_FILE_TYPE, minimum=0, default=_MAX_FILE_TYPE)
    if file_type in _FILE_TYPES:
        return _FILE_TYPES[file_type]
    nbytes = Counter[str]()
    for tensor in header.tensors:
        nbytes[tensor.type.name] += tensor.nbytes
    return nbytes.most_common(1)[0][0]
