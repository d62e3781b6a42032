"""The types that a matrix may get with `--budget`, by the kernels of the board that runs the model.

On ARM llama.cpp copies ("repacks") some types into a layout for its fast kernels. These work on several rows at once.
They use the dot product instructions of Armv8.2 or the matrix instructions of Armv8.6 (i8mm).
Source: ggml/src/ggml-cpu/repack.cpp of the llama.cpp that llama-cpp-python 0.3.36 vendors.
A new type is an entry in each table of this module that it fits.
"""

from enum import Enum

from ..read.tensors import OUTPUT, TOKEN_EMBD, ModelTensor
from .ggml import BLOCK_ELEMENTS, GgmlType


class Target(Enum):
    """What `--target` accepts; the value is the word on the command line."""

    ARMV8_0 = "armv8.0"
    DOTPROD = "armv8.2-dotprod"
    I8MM = "armv8.6-i8mm"
    ANY = "any"


_BODY = {
    # Nothing is repacked there.
    Target.ARMV8_0: (GgmlType.IQ4_NL, GgmlType.Q5_0, GgmlType.Q8_0, GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K),
    Target.DOTPROD: (GgmlType.IQ4_NL, GgmlType.Q8_0, GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K),
    # IQ4_NL has no kernel with matrix instructions.
    Target.I8MM: (GgmlType.Q4_0, GgmlType.Q8_0, GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K),
}
# Fast on all of them, because cores with i8mm also have the dot product kernel, by which they run IQ4_NL.
_BODY[Target.ANY] = tuple(kind for kind in _BODY[Target.DOTPROD] if kind in _BODY[Target.ARMV8_0])
# The embedding is looked up row by row and, as the output matrix, read once per step. Repacked, it takes memory twice.
_EMBEDDING = (GgmlType.IQ4_NL, GgmlType.Q5_0, GgmlType.Q5_1, GgmlType.Q5_K, GgmlType.Q6_K, GgmlType.Q8_0)
_ROWS_AT_ONCE = {
    GgmlType.Q4_0: 4,
    GgmlType.IQ4_NL: 4,
    GgmlType.Q8_0: 4,
    GgmlType.Q4_K: 8,
    GgmlType.Q5_K: 8,
    GgmlType.Q6_K: 8,
}


def is_repacked(target: Target, kind: GgmlType, rows: int) -> bool:
    """Whether loading a matrix of this type and number of rows copies it for fast kernels."""
    return target is not Target.ARMV8_0 and kind in _ROWS_AT_ONCE and rows % _ROWS_AT_ONCE[kind] == 0


def candidates(target: Target, tensor: ModelTensor) -> list[GgmlType]:
    """The types with blocks that fit the columns of this matrix, the smallest first."""
    kinds = _EMBEDDING if tensor.name in {TOKEN_EMBD, OUTPUT} else _BODY[target]
    fitting = [kind for kind in kinds if tensor.columns % BLOCK_ELEMENTS[kind] == 0]
    # Q4_K is as large as IQ4_NL and less exact.
    if GgmlType.IQ4_NL in fitting:
        fitting = [kind for kind in fitting if kind is not GgmlType.Q4_K]
    return fitting or [GgmlType.F16]
