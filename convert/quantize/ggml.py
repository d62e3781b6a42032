"""The C quantizers of ggml through ctypes: the only importer of the native library.

`libggml-base` comes with llama-cpp-python. The package is located but not imported: importing it loads the engine.
"""

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from pathlib import Path

from ..errors import ConvertError

_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_FILE = ("ggml-base" if sys.platform == "win32" else "libggml-base") + _SUFFIX


class GgmlType(IntEnum):
    """Tensor types that this converter writes, numbered as in ggml.h."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    BF16 = 30


BLOCK_ELEMENTS = {
    GgmlType.F32: 1,
    GgmlType.F16: 1,
    GgmlType.BF16: 1,
    GgmlType.Q4_0: 32,
    GgmlType.Q5_0: 32,
    GgmlType.Q5_1: 32,
    GgmlType.Q8_0: 32,
    GgmlType.IQ4_NL: 32,
    GgmlType.Q4_K: 256,
    GgmlType.Q5_K: 256,
    GgmlType.Q6_K: 256,
}
_BLOCK_BYTES = {
    GgmlType.F32: 4,
    GgmlType.F16: 2,
    GgmlType.BF16: 2,
    GgmlType.Q4_0: 18,
    GgmlType.Q5_0: 22,
    GgmlType.Q5_1: 24,
    GgmlType.Q8_0: 34,
    GgmlType.IQ4_NL: 18,
    GgmlType.Q4_K: 144,
    GgmlType.Q5_K: 176,
    GgmlType.Q6_K: 210,
}


def row_bytes(kind: GgmlType, columns: int) -> int:
    """Bytes of one row of `columns` elements; `columns` must be whole blocks."""
    blocks, rest = divmod(columns, BLOCK_ELEMENTS[kind])
    if rest:
        raise ValueError(
            f"{columns} columns are not whole blocks of {kind.name}, which are {BLOCK_ELEMENTS[kind]} long"
        )
    return blocks * _BLOCK_BYTES[kind]


def library_path() -> Path:
    """Path of libggml-base. Raises ConvertError if llama-cpp-python is missing or was built without it."""
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "lib" / _FILE
        if path.is_file():
            return path
    raise ConvertError(f"{_FILE} not found: llama-cpp-python is not installed in this environment")


class Ggml:
    """The library's functions on raw memory. Addresses are integers; nothing here checks that they are valid.

    All calls release the interpreter lock and keep no state, so threads may work on separate rows at once.
    """

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise ConvertError(f"{path} cannot be loaded: {error}") from None
        pointer, int64, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
        for name, result, arguments in (
            ("ggml_quantize_chunk", size, (ctypes.c_int, pointer, pointer, int64, int64, int64, pointer)),
            ("ggml_validate_row_data", ctypes.c_bool, (ctypes.c_int, pointer, size)),
            ("ggml_row_size", size, (ctypes.c_int, int64)),
            ("ggml_blck_size", int64, (ctypes.c_int,)),
            ("ggml_bf16_to_fp32_row", None, (pointer, pointer, int64)),
            ("ggml_fp16_to_fp32_row", None, (pointer, pointer, int64)),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
        self._library = library
        self._to_float: dict[GgmlType, Callable[[int, int, int], None]] = {
            kind: _to_float(library, kind) for kind in GgmlType if kind is not GgmlType.F32
        }
        for kind in GgmlType:
            elements = BLOCK_ELEMENTS[kind]
            found = (library.ggml_blck_size(kind), library.ggml_row_size(kind, elements))
            if found != (elements, _BLOCK_BYTES[kind]):
                raise ConvertError(
                    f"{path.name}: blocks of {kind.name} are {found}, this is an unknown version of ggml"
                )

    def bf16_to_f32(self, source: int, target: int, count: int) -> None:
        """Widen `count` BF16 numbers, exactly."""
        self._library.ggml_bf16_to_fp32_row(source, target, count)

    def f16_to_f32(self, source: int, target: int, count: int) -> None:
        """Widen `count` F16 numbers, exactly."""
        self._library.ggml_fp16_to_fp32_row(source, target, count)

    def dequantize(self, kind: GgmlType, source: int, target: int, count: int) -> None:
        """Turn whole blocks of `kind`, `count` elements of them, into F32 numbers."""
        self._to_float[kind](source, target, count)

    def quantize(
        self, kind: GgmlType, source: int, target: int, rows: int, columns: int, *, importance: int | None = None
    ) -> None:
        """Turn `rows` × `columns` F32 numbers at `source` into rows of `kind` at `target`.

        importance: address of as many F32 numbers as there are columns, the weight of a squared error in each.
        Raises ValueError if a block of the result has a scale that is not finite, as upstream's quantizer does.
        """
        expected = rows * row_bytes(kind, columns)
        written = self._library.ggml_quantize_chunk(kind, source, target, 0, rows, columns, importance)
        if written != expected:
            raise RuntimeError(f"ggml_quantize_chunk wrote {written} bytes of {kind.name}, expected {expected}")
        # The caller checks plain numbers: ggml would print a line of its own to stderr.
        if BLOCK_ELEMENTS[kind] > 1 and not self._library.ggml_validate_row_data(kind, target, written):
            raise ValueError(f"numbers too large for {kind.name}")


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


def _to_float(library: ctypes.CDLL, kind: GgmlType) -> Callable[[int, int, int], None]:
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    function: Callable[[int, int, int], None] = library.ggml_get_type_traits(kind).contents.to_float
    return function


@cache
def load() -> Ggml:
    """The library, loaded once per process."""
    return Ggml(library_path())
