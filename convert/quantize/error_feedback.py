"""Rounding with error feedback, in which later columns compensate for the rounding error of each block of columns.

A matrix counts by its products with its inputs x. The loss is the trace of E·G·Eᵀ for the error E and the second
moments G = Σ x·xᵀ. Given the error of a block, the best correction of the later columns is known (optimal brain
surgeon; GPTQ, arXiv 2210.17323, applies it column by column). Whole blocks are corrected here: the loss is the same
within 2 %, and ggml rounds each block to any of its types.
"""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cython_lapack, solve_triangular

from ..errors import ConvertError
from . import ggml
from .ggml import BLOCK_ELEMENTS, Floats, GgmlType, row_bytes

# A share of the mean moment. Without it, weights of rarely seen inputs would grow without bound.
RIDGE = 0.01


class ErrorFeedback:
    """How the error of each block spreads over the columns behind it.

    `moments` are G, [columns, columns], all 0 if all inputs were 0. `ridge` is the share of the mean moment that is
    added to the diagonal. Raises ConvertError if G is not finite.
    """

    def __init__(self, moments: Floats, *, ridge: float = RIDGE) -> None:
        mean = float(np.trace(moments)) / len(moments)
        if not np.isfinite(mean) or not np.isfinite(moments).all():
            raise ConvertError("the inputs of a matrix are not finite")
        # J reverses the columns. With J·G·J = L·Lᵀ, the matrix U = J·L⁻¹·J has UᵀU = G⁻¹. One copy of G saves memory.
        turned = np.array(moments[::-1, ::-1], np.float32, order="F")
        turned[np.diag_indices_from(turned)] += ridge * mean if mean > 0 else 1.0
        _invert_factor(turned)
        # Only the diagonal and what is above it is U, and is read.
        self._upper = turned[::-1, ::-1]

    def encode(self, weights: Floats, kind: GgmlType) -> tuple[npt.NDArray[np.uint8], Floats]:
        """Encoded rows [rows, bytes] and their values [rows, columns]. Raises ConvertError as `ggml.quantize`."""
        rows, columns = weights.shape
        # Plain numbers lose next to nothing, and have no blocks.
        block = columns if BLOCK_ELEMENTS[kind] == 1 else BLOCK_ELEMENTS[kind]
        left = np.array(weights, np.float32)
        encoded = np.empty((rows, row_bytes(kind, columns)), np.uint8)
        decoded = np.empty_like(left)
        size = row_bytes(kind, block)
        for at, begin in enumerate(range(0, columns, block)):
            here, behind = slice(begin, begin + block), slice(begin + block, columns)
            triangle = self._upper[here, here]
            part = np.ascontiguousarray(left[:, here])
            # The cost of an error after the best correction of the columns behind it.
            importance = np.ascontiguousarray(np.diag(triangle) ** -2)
            bits = np.empty((rows, size), np.uint8)
            ggml.quantize(kind, part, bits, importance)
            known = ggml.dequantized(kind, bits, block)
            encoded[:, at * size : (at + 1) * size] = bits
            decoded[:, here] = known
            if begin + block < columns:
                spread = solve_triangular(triangle, self._upper[here, behind], check_finite=False)
                left[:, behind] -= (part - known) @ spread
        return encoded, decoded


def loss(moments: Floats, error: Floats) -> float:
    """The trace of E·G·Eᵀ."""
    return float(np.einsum("ij,ij->", error @ moments, error, dtype=np.float64))


def _invert_factor(matrix: Floats) -> None:
    """Replaces a symmetric matrix G, in Fortran's order, by the inverse of its factor: L⁻¹ with G = L·Lᵀ.

    Above the diagonal, where L⁻¹ is 0, G stays. Raises ConvertError if G is not positive definite.
    """
    size, fault = ctypes.c_int(len(matrix)), ctypes.c_int()
    fixed = ctypes.byref(size), ctypes.c_void_p(matrix.ctypes.data), ctypes.byref(size), ctypes.byref(fault)
    _POTRF(b"L", *fixed)
    if fault.value:
        raise ConvertError("the moments of a matrix's inputs are not positive definite")
    _TRTRI(b"L", b"N", *fixed)


def _function(name: str) -> Any:
    """A function of LAPACK, as scipy gives it to compiled code; all arguments are pointers.

    It works in place and without Python's lock, which scipy.linalg's own hold, for a minute with a 7B's matrices.
    """
    capsule = cython_lapack.__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None)(pointer_of(capsule, name_of(capsule)))


_POTRF, _TRTRI = _function("spotrf"), _function("strtri")
