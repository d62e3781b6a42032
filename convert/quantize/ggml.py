"""The C quantizers of ggml through ctypes. No other module imports the native library.

`libggml-base` comes with llama-cpp-python. The package is located but not imported, because importing it loads the
engine.
"""

import ctypes
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as GgmlType

from ..errors import ConvertError

Floats = npt.NDArray[np.float32]
Buffer = npt.NDArray[Any]  # contiguous, of bytes or wider numbers
_FILE = "libggml-base.dylib" if sys.platform == "darwin" else "libggml-base.so"
BLOCK_ELEMENTS: dict[GgmlType, int] = {kind: elements for kind, (elements, _) in GGML_QUANT_SIZES.items()}


def row_bytes(kind: GgmlType, columns: int) -> int:
    """Bytes of one row of `columns` elements, which must be whole blocks."""
    elements, nbytes = GGML_QUANT_SIZES[kind]
    return columns // elements * nbytes


def library_path() -> Path:
    """Path of libggml-base. Raises ConvertError if llama-cpp-python is missing or was built without it."""
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "lib" / _FILE
        if path.is_file():
            return path
    raise ConvertError(f"{_FILE} not found: llama-cpp-python is not installed in this environment")


class _Traits(ctypes.Structure):
    """struct ggml_type_traits"""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


@cache
def _library() -> ctypes.CDLL:
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ConvertError(f"{path} cannot be loaded: {error}") from None
    pointer, int64, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
    for name, result, arguments in (
        ("ggml_quantize_chunk", size, (ctypes.c_int, pointer, pointer, int64, int64, int64, pointer)),
        ("ggml_validate_row_data", ctypes.c_bool, (ctypes.c_int, pointer, size)),
        ("ggml_get_type_traits", ctypes.POINTER(_Traits), (ctypes.c_int,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
    return library


def dequantize(kind: GgmlType, encoded: Buffer, numbers: Floats) -> None:
    """Turns whole blocks of `kind` (not F32) into as many numbers as there is room for; exact for F16 and BF16."""
    _library().ggml_get_type_traits(kind).contents.to_float(encoded.ctypes.data, numbers.ctypes.data, numbers.size)


def dequantized(kind: GgmlType, encoded: Buffer, columns: int) -> Floats:
    """The numbers [rows, columns] of encoded rows [rows, …]."""
    if kind is GgmlType.F32:
        return encoded.view(np.float32).reshape(-1, columns)
    numbers = np.empty((len(encoded), columns), np.float32)
    dequantize(kind, np.ascontiguousarray(encoded), numbers)
    return numbers


def quantize(kind: GgmlType, numbers: Floats, encoded: Buffer, importance: Floats | None = None) -> None:
    """Turns numbers [rows, columns] into rows of `kind`. Keeps no state, so threads may work on separate rows at once.

    `importance` is the weight of a squared error in each column, [columns]. Raises ConvertError if a number of the
    result, or the scale of a block, is not finite.
    """
    rows, columns = numbers.shape
    weights = None if importance is None else importance.ctypes.data
    _library().ggml_quantize_chunk(kind, numbers.ctypes.data, encoded.ctypes.data, 0, rows, columns, weights)
    if not is_sound(encoded, kind):
        raise ConvertError(f"numbers too large for {kind.name}; use bf16 instead")


def is_sound(data: Buffer, kind: GgmlType) -> bool:
    """Whether the numbers, or the scales of the blocks, are finite. If not, ggml prints a line to stderr."""
    return bool(_library().ggml_validate_row_data(kind, data.ctypes.data, data.nbytes))
