"""PURE. What a model costs on a board: bytes that a token reads, and copies of weights in memory."""

from collections.abc import Iterator

from .conversion import Plan
from .read.tensors import TOKEN_EMBD, ModelTensor
from .tune.candidates import Target, is_repacked
from .write.gguf_file import TensorInfo


def bytes_per_token(plan: Plan) -> int:
    """What a decode step reads of the matrices: of an embedding that is no output matrix one row only."""
    return sum(info.nbytes for _, info in _multiplied(plan))


def ram_bytes(plan: Plan, target: Target) -> int:
    """Of the matrices, in memory that is not the file's: copies in the layout of fast kernels."""
    return sum(info.nbytes for tensor, info in _multiplied(plan) if is_repacked(target, info.kind, tensor.rows))


def _multiplied(plan: Plan) -> Iterator[tuple[ModelTensor, TensorInfo]]:
    for tensor, info in zip(plan.tensors, plan.infos, strict=True):
        if tensor.is_quantizable and (plan.config.tied_embeddings or tensor.name != TOKEN_EMBD):
            yield tensor, info
