"""config.json of a Qwen2 checkpoint, checked and reduced to what a GGUF file needs."""

from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, printable

FILE = "config.json"
ARCHITECTURE = "Qwen2ForCausalLM"
MODEL_TYPE = "qwen2"
SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "mask")
MAX_NAME_LENGTH = 128
# Far above any published model, and within llama.cpp's limits; one row of F32 fits a slab, products stay below 2^63.
_LIMITS = {
    "num_hidden_layers": 512,
    "hidden_size": 1 << 18,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "max_position_embeddings": (1 << 31) - 1,
    "vocab_size": 1 << 22,
    "head_dim": 1 << 12,
}


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Context extension that the model was trained for. kind: `linear` or `yarn`; after `factor`, YaRN only."""

    kind: str
    factor: float
    original_context_length: int | None = None
    extrapolation_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A Qwen2 or Qwen2.5 language model (DeepSeek-R1-Distill-Qwen is one). Lengths are in elements or tokens."""

    block_count: int
    context_length: int
    embedding_length: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    head_dim: int | None  # only where config.json states it
    rms_epsilon: float
    rope_freq_base: float
    rope_scaling: RopeScaling | None
    vocab_size: int
    tied_embeddings: bool
    special_token_ids: dict[str, int]
    origin: str | None  # last part of `_name_or_path`
    sliding_window: int | None  # attention span, where the checkpoint asks for one

    @property
    def kv_length(self) -> int:
        """Elements of one token's key (or value) in one layer."""
        return self.embedding_length // self.head_count * self.head_count_kv


def parse_config(raw: dict[str, Any]) -> ModelConfig:
    """Check and reduce config.json; CheckpointError names the field, its value and what is allowed.

    Defaults are those of transformers' Qwen2Config, because upstream's converter sees the file through it.
    """
    _check_architecture(raw)
    heads = _size(raw, "num_attention_heads")
    heads_kv = _size(raw, "num_key_value_heads")
    hidden = _size(raw, "hidden_size")
    if hidden % heads:
        raise _wrong("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}")
    if heads % heads_kv:
        raise _wrong("num_key_value_heads", heads_kv, f"a divisor of num_attention_heads = {heads}")
    head_dim = None if raw.get("head_dim") is None else _size(raw, "head_dim")
    if head_dim is not None and head_dim * heads != hidden:
        raise _wrong("head_dim", head_dim, f"hidden_size / num_attention_heads = {hidden // heads}")
    # Newer transformers nest both the base and the scaling in `rope_parameters`.
    field = "rope_parameters" if raw.get("rope_parameters") is not None else "rope_scaling"
    rope = raw.get(field) or {}
    if not isinstance(rope, dict):
        raise _wrong(field, rope, "an object or null")
    if any(isinstance(value, dict) for value in rope.values()):
        raise _wrong(field, rope, "one set of values for all layers")
    return ModelConfig(
        block_count=_size(raw, "num_hidden_layers"),
        context_length=_size(raw, "max_position_embeddings"),
        embedding_length=hidden,
        feed_forward_length=_size(raw, "intermediate_size"),
        head_count=heads,
        head_count_kv=heads_kv,
        head_dim=head_dim,
        rms_epsilon=_positive(raw, "rms_norm_eps", 1e-6),
        rope_freq_base=_positive(rope if rope.get("rope_theta") is not None else raw, "rope_theta", 10000.0),
        rope_scaling=_rope_scaling(raw, rope, field),
        vocab_size=_size(raw, "vocab_size"),
        tied_embeddings=_flag(raw, "tie_word_embeddings", default=False),
        special_token_ids=_special_token_ids(raw),
        origin=_origin(raw.get("_name_or_path")),
        sliding_window=_sliding_window(raw),
    )


def _check_architecture(raw: dict[str, Any]) -> None:
    names, model_type = raw.get("architectures"), raw.get("model_type")
    if names is None and model_type is None:
        raise CheckpointError(f"{FILE}: neither architectures nor model_type; only {ARCHITECTURE} is supported")
    if names is not None and names != [ARCHITECTURE]:
        shown = ", ".join(map(str, names)) if isinstance(names, list) and names else str(names)
        raise CheckpointError(
            f"{FILE}: architecture {printable(shown)} is not supported, only {ARCHITECTURE} is "
            "(Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen)"
        )
    if model_type is not None and model_type != MODEL_TYPE:
        raise CheckpointError(f"{FILE}: model_type {printable(str(model_type))} is not supported, only {MODEL_TYPE} is")
    for field in ("quantization_config", "vision_config", "text_config", "audio_config"):
        if raw.get(field) is not None:
            raise CheckpointError(
                f"{FILE}: {field} is present; only plain BF16, F16 or F32 language models are supported"
            )
    if raw.get("hidden_act", "silu") != "silu":
        raise _wrong("hidden_act", raw["hidden_act"], "silu")
    if not _flag(raw, "is_causal", default=True):
        raise _wrong("is_causal", False, "true (embedding models are not supported)")


def _rope_scaling(raw: dict[str, Any], rope: dict[str, Any], field: str) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type"))
    if kind is None or kind == "default":
        return None
    if kind not in ("linear", "yarn"):
        raise _wrong(f"{field}.rope_type", kind, "default, linear or yarn")
    factor = _positive(rope, "factor", None, field)
    if kind == "linear":
        return RopeScaling(kind, factor)
    original = {**raw, **rope}.get("original_max_position_embeddings")
    if type(original) is not int or not 1 <= original <= _LIMITS["max_position_embeddings"]:
        raise _wrong(f"{field}.original_max_position_embeddings", original, "a positive integer (YaRN needs it)")
    attention = "attention_factor" if rope.get("attention_factor") is not None else "attn_factor"
    return RopeScaling(
        kind,
        factor,
        original,
        extrapolation_factor=_optional(rope, "extrapolation_factor", field),
        attention_factor=_optional(rope, attention, field),
        beta_fast=_optional(rope, "beta_fast", field),
        beta_slow=_optional(rope, "beta_slow", field),
    )


def _special_token_ids(raw: dict[str, Any]) -> dict[str, int]:
    # A list of ids (several ends of text) belongs to generation; like upstream, only single integers count.
    ids = {kind: raw.get(f"{kind}_token_id") for kind in SPECIAL_TOKENS}
    return {kind: value for kind, value in ids.items() if type(value) is int}


def _sliding_window(raw: dict[str, Any]) -> int | None:
    if not _flag(raw, "use_sliding_window", default=False) or raw.get("sliding_window") is None:
        return None
    value = raw["sliding_window"]
    if type(value) is not int or value < 1:
        raise _wrong("sliding_window", value, "a positive integer or null")
    return value


def _origin(value: Any) -> str | None:
    last = value.replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(value, str) else ""
    return last if last.isprintable() and len(last) <= MAX_NAME_LENGTH and last not in ("", ".", "..") else None


def _wrong(field: str, value: Any, allowed: str) -> CheckpointError:
    return CheckpointError(f"{FILE}: {field} is {printable(repr(value))}, allowed is {allowed}")


def _size(raw: dict[str, Any], field: str) -> int:
    value = raw.get(field)
    if type(value) is not int or not 1 <= value <= _LIMITS[field]:
        raise _wrong(field, value, f"an integer from 1 to {_LIMITS[field]}")
    return value


def _flag(raw: dict[str, Any], field: str, *, default: bool) -> bool:
    value = raw.get(field, default)
    if not isinstance(value, bool):
        raise _wrong(field, value, "true or false")
    return value


def _positive(raw: dict[str, Any], field: str, default: float | None, parent: str = "") -> float:
    value: Any = raw.get(field, default)
    # Outside of this range it would be zero or too large for GGUF's F32. Integers too large for a float compare too.
    if type(value) not in (int, float) or not 1e-30 < value < 1e30:
        raise _wrong(f"{parent}.{field}" if parent else field, value, "a positive number")
    return float(value)


def _optional(raw: dict[str, Any], field: str, parent: str) -> float | None:
    return None if raw.get(field) is None else _positive(raw, field, None, parent)
