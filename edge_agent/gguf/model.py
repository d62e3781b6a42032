"""Checks that a GGUF file is a model that the agent can run, and reads its properties."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edge_agent.core.errors import shown
from edge_agent.gguf.header import Header, HeaderError, read_header
from edge_agent.gguf.qwen2 import ARCHITECTURE, check_tensors, read_sizes
from edge_agent.gguf.vocabulary import check_vocabulary

# llama.h's enum llama_ftype. For other values the tensors decide.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
}  # fmt: skip
_MAX_FILE_TYPE = 2**32 - 1


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """quantization: llama.cpp's name for the mix of types, else the type of most bytes. tokens: the vocabulary's size.

    chat_template_sha256: hex, of its UTF-8; None = the model has no template.
    """

    quantization: str
    context_length: int
    tokens: int
    chat_template_sha256: str | None


def read_model_facts(path: Path) -> ModelFacts:
    """Raises HeaderError for a file that llama.cpp would refuse, abort on, or compute wrong answers with; OSError."""
    header = read_header(path)
    header.text("general.architecture", ARCHITECTURE)
    header.text("general.type", "model", default="model")
    # llama.cpp would read the other parts from files beside it.
    if header.values.get("split.count", 0) not in (0, 1):
        raise HeaderError(
            f"split.count: should be 1, the whole model in one file (got {shown(header.values['split.count'])})"
        )
    sizes = read_sizes(header)
    tokens = check_vocabulary(path, header)
    check_tensors(header, sizes, tokens)
    template = header.any_text("tokenizer.chat_template")
    digest = None if template is None else hashlib.sha256(template.encode()).hexdigest()
    return ModelFacts(_quantization(header), sizes.context, tokens, digest)


def _quantization(header: Header) -> str:
    file_type = header.integer("general.file_type", _MAX_FILE_TYPE, least=0, default=_MAX_FILE_TYPE)
    if file_type in _FILE_TYPES:
        return _FILE_TYPES[file_type]
    nbytes = Counter[str]()
    for tensor in header.tensors:
        nbytes[tensor.type.name] += tensor.nbytes
    return nbytes.most_common(1)[0][0]
