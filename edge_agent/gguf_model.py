"""What is known of a model from the header of its GGUF file, and whether the agent answers with such a one at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edge_agent.faults import shown
from edge_agent.gguf_header import Array, Header, HeaderError, read_header

ARCHITECTURE = "qwen2"
_TOKENS, _EMBEDDING = "tokenizer.ggml.tokens", "token_embd.weight"
# llama.h's enum llama_ftype; what is not here, like "guessed", is told by the tensors.
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """quantization: as llama.cpp calls the mix of types, else the type of most bytes; tokens: of its vocabulary."""

    quantization: str
    context_length: int
    tokens: int


def read_model_facts(path: Path) -> ModelFacts:
    """Raises HeaderError for a file that is no model of the architecture that the agent runs; OSError."""
    header = read_header(path)
    architecture, role = header.values.get("general.architecture"), header.values.get("general.type", "model")
    if architecture != ARCHITECTURE:
        raise HeaderError(f'general.architecture: should be "{ARCHITECTURE}" (got {shown(architecture)})')
    if role != "model":
        raise HeaderError(f'general.type: should be "model" (got {shown(role)})')
    tokens = _tokens(header)
    key = f"{ARCHITECTURE}.context_length"
    context_length = header.values.get(key)
    if type(context_length) is not int or context_length < 1:
        raise HeaderError(f"{key}: should be a number of tokens (got {shown(context_length)})")
    return ModelFacts(_quantization(header), context_length, tokens)


def _tokens(header: Header) -> int:
    tokens = header.values.get(_TOKENS)
    if not isinstance(tokens, Array):
        raise HeaderError(f"{_TOKENS}: should be an array (got {shown(tokens)})")
    shape = next((tensor.shape for tensor in header.tensors if tensor.name == _EMBEDDING), None)
    if shape is None or len(shape) != 2 or shape[1] != tokens.count:
        raise HeaderError(
            f"tensor {_EMBEDDING}: should have a row for each of {tokens.count} tokens (got {shown(shape)})"
        )
    return tokens.count


def _quantization(header: Header) -> str:
    file_type = header.values.get("general.file_type")
    if type(file_type) is int and file_type in _FILE_TYPES:
        return _FILE_TYPES[file_type]
    nbytes = Counter[str]()
    for tensor in header.tensors:
        nbytes[tensor.type.name] += tensor.nbytes
    return nbytes.most_common(1)[0][0]
