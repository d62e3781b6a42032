"""Checks the sizes of a qwen2 model and the tensors that follow from them: llama.cpp asserts on both.

Source: src/llama-model.cpp (load_hparams), src/models/qwen2.cpp and ggml/src/ggml-cpu/binary-ops.cpp of the llama.cpp
that llama-cpp-python 0.3.36 vendors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.core.errors import shown
from edge_agent.gguf.header import Header, HeaderError, TensorInfo

ARCHITECTURE = "qwen2"
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS
# Positions are signed 32-bit numbers.
MAX_CONTEXT = (1 << 31) - 1
_MAX_WIDTH = 1 << 24
_MAX_HEADS = 1 << 16
_LARGEST = 1e30
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
# They belong to other architectures; llama.cpp aborts on each of them.
_MUST_BE_ZERO = (
    "nextn_predict_layers",
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_group_used_count",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a qwen2 model. context: in tokens; lengths: in numbers; each head has `head` numbers."""

    blocks: int
    context: int
    embedding: int
    feed_forward: int
    heads: int
    heads_kv: int

    @property
    def head(self) -> int:
        return self.embedding // self.heads


@dataclass(frozen=True, slots=True)
class _Expected:
    shape: tuple[int, ...]
    is_required: bool = True


def read_sizes(header: Header) -> Sizes:
    """Raises HeaderError for sizes that llama.cpp would refuse, abort on, or compute wrong answers with."""
    sizes = Sizes(
        blocks=header.integer(_key("block_count"), MAX_BLOCKS),
        context=header.integer(_key("context_length"), MAX_CONTEXT),
        embedding=header.integer(_key("embedding_length"), _MAX_WIDTH),
        feed_forward=header.integer(_key("feed_forward_length"), _MAX_WIDTH),
        heads=(heads := header.integer(_key("attention.head_count"), _MAX_HEADS)),
        heads_kv=header.integer(_key("attention.head_count_kv"), _MAX_HEADS, default=heads),
    )
    if sizes.embedding % heads or sizes.head % 2:
        allowed = f"a divisor of the embedding's {sizes.embedding} that leaves heads of an even length"
        raise HeaderError(f"{_key('attention.head_count')}: should be {allowed} (got {heads})")
    if heads % sizes.heads_kv:
        allowed = f"a divisor of the {heads} heads"
        raise HeaderError(f"{_key('attention.head_count_kv')}: should be {allowed} (got {sizes.heads_kv})")
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        header.integer(_key(name), sizes.head, least=sizes.head, default=sizes.head)
    header.integer(_key("embedding_length_out"), sizes.embedding, least=sizes.embedding, default=sizes.embedding)
    for name in _MUST_BE_ZERO:
        header.integer(_key(name), 0, least=0, default=0)
    _check_numbers(header)
    return sizes


def _check_numbers(header: Header) -> None:
    header.number(_key("attention.layer_norm_rms_epsilon"), 1 / _LARGEST, _LARGEST)
    # With 1 or less, the angles of later positions overflow.
    header.number(_key("rope.freq_base"), 2.0, _LARGEST, default=10000.0)
    header.text(_key("rope.scaling.type"), *_ROPE_SCALINGS, default="linear")
    for name in ("rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"):
        header.number(_key(name), 1e-6, 1e6, default=1.0)
    header.integer(_key("rope.scaling.original_context_length"), MAX_CONTEXT, default=1)
    if header.values.get(_key("attention.causal"), True) is not True:
        raise HeaderError(
            f"{_key('attention.causal')}: should be true: answers are generated token by token (got false)"
        )


def check_tensors(header: Header, sizes: Sizes, tokens: int) -> None:
    """Checks that all tensors of the model are there, and no others. Raises HeaderError."""
    expected, found = dict(_expected(sizes, tokens)), {tensor.name: tensor for tensor in header.tensors}
    for name, known in expected.items():
        if known.is_required and name not in found:
            raise HeaderError(f"tensor {name}: is missing; it should be {_described(known)}")
    for tensor in header.tensors:
        if tensor.name not in expected:
            raise HeaderError(
                f"tensor {shown(tensor.name)}: does not belong to a {ARCHITECTURE} model of {sizes.blocks} blocks"
            )
        _check_tensor(tensor, expected[tensor.name])


def _check_tensor(tensor: TensorInfo, known: _Expected) -> None:
    # llama.cpp has kernels for norms and biases in F32 only.
    if _whole(tensor.shape) != _whole(known.shape) or (len(known.shape) == 1 and tensor.type.name != "F32"):
        raise HeaderError(
            f"tensor {tensor.name}: should be {_described(known)} (got {tensor.type.name}, {shown(tensor.shape)})"
        )


def _described(known: _Expected) -> str:
    return f"{'F32' if len(known.shape) == 1 else 'a matrix'}, {list(known.shape)}"


def _whole(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape + (1,) * (4 - len(shape))


def _expected(sizes: Sizes, tokens: int) -> Iterator[tuple[str, _Expected]]:
    """Shapes with columns first. Biases may be missing, and so may the output matrix: the embedding stands for it."""
    width, inner, kv = sizes.embedding, sizes.feed_forward, sizes.head * sizes.heads_kv
    yield EMBEDDING, _Expected((width, tokens))
    yield "output_norm.weight", _Expected((width,))
    yield OUTPUT, _Expected((width, tokens), is_required=False)
    yield "output.bias", _Expected((tokens,), is_required=False)
    for block in range(sizes.blocks):
        for name, shape in (
            ("attn_norm.weight", (width,)),
            ("attn_q.weight", (width, width)),
            ("attn_k.weight", (width, kv)),
            ("attn_v.weight", (width, kv)),
            ("attn_output.weight", (width, width)),
            ("ffn_norm.weight", (width,)),
            ("ffn_gate.weight", (width, inner)),
            ("ffn_up.weight", (width, inner)),
            ("ffn_down.weight", (inner, width)),
        ):
            yield f"blk.{block}.{name}", _Expected(shape)
        for name, length in (("attn_q.bias", width), ("attn_k.bias", kv), ("attn_v.bias", kv)):
            yield f"blk.{block}.{name}", _Expected((length,), is_required=False)


def _key(name: str) -> str:
    return f"{ARCHITECTURE}.{name}"
