"""config.json of a Qwen2 checkpoint, checked and reduced to what a GGUF file needs."""

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..agent import MODELS, first_fault
from ..errors import CheckpointError, escaped

FILE = "config.json"
HF_ARCHITECTURE = "Qwen2ForCausalLM"
MODEL_TYPE = "qwen2"
SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "mask")
# Otherwise it would be zero or too large for GGUF's F32.
_Number = Annotated[float, Field(gt=1e-30, lt=1e30)]
_Length = Annotated[int, Field(ge=1, le=(1 << 31) - 1)]
_Heads = Annotated[int, Field(ge=1, le=1 << 12)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Rope(_Checked):
    """Rotary positions. All but `rope_theta` belongs to a context extension that the model was trained for."""

    rope_type: Literal["default", "linear", "yarn"] = Field(
        "default", validation_alias=AliasChoices("rope_type", "type")
    )
    rope_theta: _Number | None = None
    factor: _Number | None = None
    original_max_position_embeddings: _Length | None = None
    extrapolation_factor: _Number | None = None
    attention_factor: _Number | None = Field(None, validation_alias=AliasChoices("attention_factor", "attn_factor"))
    beta_fast: _Number | None = None
    beta_slow: _Number | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_for_all_layers(cls, value: Any) -> Any:
        if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            raise ValueError("should be one set of values for all layers")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.rope_type != "default" and self.factor is None:
            raise ValueError(f"should have a factor, as its type is {self.rope_type}")
        if self.rope_type == "yarn" and self.original_max_position_embeddings is None:
            raise ValueError("should have original_max_position_embeddings, which YaRN needs")
        return self


class Qwen2Config(_Checked):
    """A Qwen2 or Qwen2.5 language model (DeepSeek-R1-Distill-Qwen is one). Lengths are in elements or tokens.

    Names and defaults are those of transformers' Qwen2Config, because upstream's converter sees the file through it.
    The limits are far above any published model, and within llama.cpp's.
    """

    num_hidden_layers: int = Field(ge=1, le=512)
    hidden_size: int = Field(ge=1, le=1 << 18)
    intermediate_size: int = Field(ge=1, le=1 << 20)
    num_attention_heads: _Heads
    num_key_value_heads: _Heads
    head_dim: _Heads | None = None
    max_position_embeddings: _Length
    vocab_size: int = Field(ge=1, le=1 << 22)
    rms_norm_eps: _Number = 1e-6
    rope_theta: _Number | None = None
    # Newer transformers nest both the base and the scaling in `rope_parameters`.
    rope: Rope = Field(Rope.model_validate({}), validation_alias=AliasChoices("rope_parameters", "rope_scaling"))
    tie_word_embeddings: bool = False
    hidden_act: Literal["silu"] = "silu"
    is_causal: Literal[True] = True  # false for embedding models
    special_token_ids: dict[str, int]

    @property
    def rope_base(self) -> float:
        return self.rope.rope_theta or self.rope_theta or 10000.0

    @property
    def kv_length(self) -> int:
        """Elements of one token's key (or value) in one layer."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads


def parse_config(raw: dict[str, Any]) -> Qwen2Config:
    """Raises CheckpointError, which names the field, its value and what is allowed."""
    names, model_type = raw.get("architectures"), raw.get("model_type")
    is_other = names not in (None, [HF_ARCHITECTURE]) or model_type not in (None, MODEL_TYPE)
    if is_other or names is model_type is None:
        raise CheckpointError(
            f"{FILE}: architecture {escaped(str(names))} of model_type {escaped(str(model_type))} is not "
            f"supported, only {HF_ARCHITECTURE} is ({MODELS})"
        )
    if raw.get("quantization_config") is not None:
        raise CheckpointError(f"{FILE}: quantization_config: only weights in BF16, F16 or F32 are supported")
    # A list of ids (several ends of text) belongs to generation; like upstream, only single integers count.
    ids = {kind: raw.get(f"{kind}_token_id") for kind in SPECIAL_TOKENS}
    special = {kind: value for kind, value in ids.items() if type(value) is int}
    try:
        stated = {name: value for name, value in raw.items() if value is not None}
        return Qwen2Config.model_validate(stated | {"special_token_ids": special})
    except ValidationError as error:
        raise CheckpointError(f"{FILE}: {first_fault(error)}") from None
