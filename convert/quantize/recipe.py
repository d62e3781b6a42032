"""The type of every tensor: upstream's default mixes, as `llama_model_quantize` chooses them without importance matrix.

Source: src/llama-quant.cpp of the llama.cpp that llama-cpp-python 0.3.36 vendors (`llama_tensor_get_type_impl`,
`tensor_type_fallback`). Its counters of attn_v and ffn_down run in layer order, so here they are the layer itself.
A new mix (`--type`) is an entry of `Quantization` with its rules in `_wanted`, the type of its body in `body`, and what
replaces that for short rows in `_SMALLER_BLOCKS`; docs/models.md lists it. test_recipe compares it with llama.cpp.
"""

from collections.abc import Iterable
from enum import Enum

from gguf import LlamaFileType

from ..read.config import Qwen2Config
from ..read.tensors import OUTPUT, TOKEN_EMBD, ModelTensor
from .ggml import BLOCK_ELEMENTS, GgmlType


class Quantization(Enum):
    """What `--type` accepts; the value is the word on the command line."""

    BF16 = "bf16"
    F16 = "f16"
    Q8_0 = "q8_0"
    Q6_K = "q6_k"
    Q5_K_M = "q5_k_m"
    Q4_K_M = "q4_k_m"
    Q4_0 = "q4_0"
    IQ4_NL = "iq4_nl"
    AUTO = "auto"

    @property
    def file_type(self) -> int:
        """`general.file_type`, llama.h's LLAMA_FTYPE. GUESSED tells the reader to look at the tensors."""
        return int(LlamaFileType["GUESSED" if self is Quantization.AUTO else f"MOSTLY_{self.name}"])

    @property
    def body(self) -> GgmlType:
        """The type of most matrices; of AUTO, until the budget is allocated."""
        return GgmlType.BF16 if self is Quantization.AUTO else GgmlType[self.name.removesuffix("_M")]


# The types for rows that are not a multiple of 256 elements long.
_SMALLER_BLOCKS = {GgmlType.Q4_K: GgmlType.Q5_0, GgmlType.Q5_K: GgmlType.Q5_1, GgmlType.Q6_K: GgmlType.Q8_0}


def tensor_types(
    quantization: Quantization, config: Qwen2Config, tensors: Iterable[ModelTensor]
) -> dict[str, GgmlType]:
    """The type of each tensor by its GGUF name; vectors are always F32."""
    return {
        tensor.name: _fitting(_wanted(quantization, config, tensor), tensor.columns)
        if tensor.is_quantizable
        else GgmlType.F32
        for tensor in tensors
    }


def _wanted(quantization: Quantization, config: Qwen2Config, tensor: ModelTensor) -> GgmlType:
    body = quantization.body
    if body in (GgmlType.BF16, GgmlType.F16):
        return body
    if tensor.name == OUTPUT or (tensor.name == TOKEN_EMBD and config.tie_word_embeddings):
        # The output matrix, or the embedding where it is used as such.
        return GgmlType.Q8_0 if body is GgmlType.Q8_0 or tensor.columns % BLOCK_ELEMENTS[body] else GgmlType.Q6_K
    if tensor.name == TOKEN_EMBD:
        return body
    _, layer, part = tensor.name.split(".", 2)
    if part == "attn_v.weight":
        return _attention_value(quantization, config, int(layer), body)
    if part == "ffn_down.weight":
        return _feed_forward_down(quantization, config, int(layer), body)
    return body


def _attention_value(quantization: Quantization, config: Qwen2Config, layer: int, body: GgmlType) -> GgmlType:
    kind = body
    if quantization is Quantization.IQ4_NL and config.num_attention_heads // config.num_key_value_heads >= 4:
        kind = GgmlType.Q5_K
    elif quantization in (Quantization.Q4_K_M, Quantization.Q5_K_M) and _gets_more_bits(layer, config):
        kind = GgmlType.Q6_K
    # Upstream treats any Qwen2 of 80 layers as "a 70B", whose attn_v is small beside the rest.
    return GgmlType.Q5_K if config.num_hidden_layers == 80 and kind is GgmlType.Q4_K else kind


def _feed_forward_down(quantization: Quantization, config: Qwen2Config, layer: int, body: GgmlType) -> GgmlType:
    if quantization in (Quantization.Q4_K_M, Quantization.Q5_K_M) and _gets_more_bits(layer, config):
        return GgmlType.Q6_K
    if quantization is Quantization.IQ4_NL and layer < config.num_hidden_layers // 8:
        return GgmlType.Q5_K
    return body


def _gets_more_bits(layer: int, config: Qwen2Config) -> bool:
    layers = config.num_hidden_layers
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _fitting(kind: GgmlType, columns: int) -> GgmlType:
    if columns % BLOCK_ELEMENTS[kind] == 0:
        return kind
    smaller = _SMALLER_BLOCKS.get(kind, kind)
    return smaller if columns % BLOCK_ELEMENTS[smaller] == 0 else GgmlType.F16
