"""Checks that a GGUF file is a LoRA adapter for the agent's models.

llama.cpp aborts on a value of an unexpected type and silently ignores tensors that it does not use.
Source: src/llama-adapter.cpp of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

import re
from pathlib import Path

from edge_agent.core.wording import shown
from edge_agent.gguf.header import HeaderError, read_header
from edge_agent.gguf.model import ARCHITECTURE

# The types that the converter of llama.cpp writes.
_NUMBER_TYPES = {"F32", "F16", "BF16", "Q8_0"}
# Far beyond any trained value, and the products stay within F32.
_ALPHAS = 1e-9, 1e9
# llama.cpp aborts on an adapter of an embedding that also serves as the output matrix.
_TENSOR = re.compile(
    r"(?:blk\.\d{1,4}\.(?:attn_q|attn_k|attn_v|attn_output|ffn_gate|ffn_up|ffn_down)|output)\.weight\.lora_[ab]"
)
_REQUIRED = {"general.type": "adapter", "general.architecture": ARCHITECTURE, "adapter.type": "lora"}
_ALPHA, _ACTIVATED = "adapter.lora.alpha", "adapter.alora.invocation_tokens"


def check_adapter(path: Path) -> None:
    """Raises HeaderError if the file is no sound LoRA adapter; OSError.

    llama.cpp checks at load whether its pairs are complete and fit the model.
    """
    header = read_header(path)
    for key, expected in _REQUIRED.items():
        header.text(key, expected)
    # For llama.cpp, 0 means that there is no scale.
    header.number(_ALPHA, *_ALPHAS, default=1.0)
    if _ACTIVATED in header.values:
        raise HeaderError(f"{_ACTIVATED}: an adapter that is activated by tokens is not supported")
    if not header.tensors:
        raise HeaderError("should have tensors (got none)")
    for tensor in header.tensors:
        if not _TENSOR.fullmatch(tensor.name):
            raise HeaderError(
                f"tensor {shown(tensor.name)}: should be the lora_a or lora_b of a matrix that can be adapted"
            )
        if tensor.type.name not in _NUMBER_TYPES or len(tensor.shape) > 2:
            allowed = " ".join(sorted(_NUMBER_TYPES))
            raise HeaderError(
                f"tensor {shown(tensor.name)}: should be a matrix of one of {allowed} "
                f"(got {tensor.type.name}, {shown(tensor.shape)})"
            )
