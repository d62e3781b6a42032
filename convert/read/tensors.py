"""The tensors of a Qwen2 model, from checkpoint names and shapes to GGUF names, in the order of the file."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import CheckpointError, escaped
from .config import Qwen2Config
from .safetensors import StoredTensor

OUTPUT = "output.weight"
TOKEN_EMBD = "token_embd.weight"  # noqa: S105 - a tensor's name
_HF_OUTPUT = "lm_head.weight"
_HF_EMBD = "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """One tensor of the GGUF file. `shape` is in checkpoint order, rows first and columns (contiguous) last."""

    name: str
    shape: tuple[int, ...]
    source: StoredTensor

    @property
    def columns(self) -> int:
        """Elements per row, a multiple of the block size of its type."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """Number of rows; 1 for a vector."""
        return 1 if len(self.shape) == 1 else self.shape[0]

    @property
    def is_quantizable(self) -> bool:
        """Whether it is a matrix, whose type can be chosen; norms and biases stay F32, as upstream has them."""
        return len(self.shape) > 1


def map_tensors(config: Qwen2Config, stored: dict[str, StoredTensor]) -> list[ModelTensor]:
    """Every tensor of the model in GGUF order, however the checkpoint is cut into shards.

    Raises CheckpointError if one is missing, has another shape than config.json says, or is unknown. `lm_head.weight`
    of a model with tied embeddings is left out, because transformers ignores it and llama.cpp would use it.
    """
    expected = dict(_expected(config))
    for hf_name, (_, shape) in expected.items():
        tensor = stored.get(hf_name)
        if tensor is None:
            extra = " (tie_word_embeddings is false)" if hf_name == _HF_OUTPUT else ""
            raise CheckpointError(f"tensor {hf_name}: missing in the checkpoint{extra}")
        if tensor.shape != shape:
            raise CheckpointError(
                f"{escaped(tensor.file.name)}: tensor {hf_name} has shape {escaped(str(list(tensor.shape)))}, "
                f"config.json asks for {list(shape)}"
            )
    for name, tensor in stored.items():
        if name not in expected and not _is_ignored(name, config):
            raise CheckpointError(f"{escaped(tensor.file.name)}: tensor {escaped(name)} is not part of a Qwen2 model")
    return [ModelTensor(name, shape, stored[hf_name]) for hf_name, (name, shape) in expected.items()]


def _is_ignored(name: str, config: Qwen2Config) -> bool:
    return name.endswith(".rotary_emb.inv_freq") or (name == _HF_OUTPUT and config.tie_word_embeddings)


def _expected(config: Qwen2Config) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    hidden, feed_forward, kv = config.hidden_size, config.intermediate_size, config.kv_length
    yield _HF_EMBD, (TOKEN_EMBD, (config.vocab_size, hidden))
    for i in range(config.num_hidden_layers):
        for hf_part, part, shape in (
            ("input_layernorm.weight", "attn_norm.weight", (hidden,)),
            ("self_attn.q_proj.weight", "attn_q.weight", (hidden, hidden)),
            ("self_attn.q_proj.bias", "attn_q.bias", (hidden,)),
            ("self_attn.k_proj.weight", "attn_k.weight", (kv, hidden)),
            ("self_attn.k_proj.bias", "attn_k.bias", (kv,)),
            ("self_attn.v_proj.weight", "attn_v.weight", (kv, hidden)),
            ("self_attn.v_proj.bias", "attn_v.bias", (kv,)),
            ("self_attn.o_proj.weight", "attn_output.weight", (hidden, hidden)),
            ("post_attention_layernorm.weight", "ffn_norm.weight", (hidden,)),
            ("mlp.gate_proj.weight", "ffn_gate.weight", (feed_forward, hidden)),
            ("mlp.up_proj.weight", "ffn_up.weight", (feed_forward, hidden)),
            ("mlp.down_proj.weight", "ffn_down.weight", (hidden, feed_forward)),
        ):
            yield f"model.layers.{i}.{hf_part}", (f"blk.{i}.{part}", shape)
    yield "model.norm.weight", ("output_norm.weight", (hidden,))
    if not config.tie_word_embeddings:
        yield _HF_OUTPUT, (OUTPUT, (config.vocab_size, hidden))
