"""PURE: the types that a matrix may get, by the kernels of the board that is to run it.

On ARM llama.cpp copies some types into a layout for its fast kernels ("repacked"): those that work on several rows at
once, with the dot product instructions of Armv8.2 or the matrix instructions of Armv8.6 (i8mm).
Source: ggml/src/ggml-cpu/repack.cpp of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

from enum import Enum

from ..read.tensors import OUTPUT, TOKEN_EMBD, ModelTensor
from ..weights.ggml import BLOCK_ELEMENTS, GgmlType


class Target(Enum):
    """What `--target` can ask for; the value is the word on the command line."""

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
_BODY[Target.ANY] = _BODY[Target.DOTPROD]
# Few rows are looked up, and as the output matrix it is read once per step: one that is not repacked is held once, for
# both. One that is repacked is held a second time, in memory of its own.
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
    """Whether a matrix of so many rows is copied there when it is multiplied with."""
    return target is not Target.ARMV8_0 and kind in _ROWS_AT_ONCE and rows % _ROWS_AT_ONCE[kind] == 0


def candidates(target: Target, tensor: ModelTensor) -> list[GgmlType]:
    """Types for this matrix, the smallest first; all of them fit its columns."""
    kinds = _EMBEDDING if tensor.name in {TOKEN_EMBD, OUTPUT} else _BODY[target]
    found = [kind for kind in kinds if tensor.columns % BLOCK_ELEMENTS[kind] == 0]
    # What is as large and less exact is none: a K type of 4 bits has no better grid than a non-linear one.
    if GgmlType.IQ4_NL in found:
        found = [kind for kind in found if kind is not GgmlType.Q4_K]
    return found or [GgmlType.F16]
