"""Calls of LAPACK in place and without Python's lock: scipy.linalg's own hold it, for a minute with a 7B's matrices."""

import ctypes
from typing import Any

from scipy.linalg import cython_lapack

from ..errors import ConvertError
from .ggml import Floats


def invert_factor(matrix: Floats) -> None:
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
    """A function of LAPACK as scipy gives it to compiled code; all arguments are pointers."""
    capsule = cython_lapack.__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None)(pointer_of(capsule, name_of(capsule)))


_POTRF, _TRTRI = _function("spotrf"), _function("strtri")
