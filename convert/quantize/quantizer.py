"""Tensor data from the checkpoint to GGUF, slab by slab: BF16, F16 or F32 → F32 → the tensor's type."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Self

import numpy as np

from ..errors import CheckpointError, ConvertError, printable
from ..read.safetensors import Dtype, StoredTensor
from ..read.tensors import ModelTensor
from .ggml import Ggml, GgmlType, row_bytes

MAX_THREADS = 16
SLAB_F32_BYTES = 16 << 20  # larger slabs were not faster, and Ctrl-C waits for the end of one
_CHECK_WORDS = 1 << 16  # intermediate results of this size stay in the processor's cache
_SAME = {Dtype.BF16: GgmlType.BF16, Dtype.F16: GgmlType.F16, Dtype.F32: GgmlType.F32}
# Exponent bits; where all are set, the number is an infinity or NaN.
_EXPONENT: dict[GgmlType, tuple[type[np.unsignedinteger[Any]], int]] = {
    GgmlType.BF16: (np.uint16, 0x7F80),
    GgmlType.F16: (np.uint16, 0x7C00),
    GgmlType.F32: (np.uint32, 0x7F800000),
}
# Q6_K ends at 65504 · 128 · 32. Some orders of magnitude above, ggml's search for the scale overflows F32 and writes a
# block of zeros, which passes its own check.
_Q6_K_END = float(1 << 30)


def processors() -> int:
    """The processors that this process may use, at most MAX_THREADS."""
    if hasattr(os, "sched_getaffinity"):
        return min(MAX_THREADS, len(os.sched_getaffinity(0)))
    return min(MAX_THREADS, os.cpu_count() or 1)


class Quantizer:
    """Converts one tensor after the other in reused buffers, so that memory does not grow with the tensors.

    `threads` share the rows of each slab; rows are independent, so the bytes do not depend on their number.
    """

    def __init__(self, ggml: Ggml, threads: int, slab_f32_bytes: int = SLAB_F32_BYTES) -> None:
        self._ggml = ggml
        self._threads = threads
        self._slab_elements = slab_f32_bytes // 4
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
        self._raw, self._f32, self._encoded = (np.empty(0, np.uint8) for _ in range(3))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def encode(self, tensor: ModelTensor, kind: GgmlType) -> Iterator[memoryview]:
        """The tensor's bytes as `kind`, in parts of whole rows; each part is valid until the next is asked for.

        Raises CheckpointError for a weight that is infinite or NaN, ConvertError for one that `kind` cannot hold: F16
        ends at 65504, and an overflow to infinity would make the model's output garbage.
        """
        rows_per_slab = max(1, self._slab_elements // tensor.columns)
        for first in range(0, tensor.rows, rows_per_slab):
            rows = min(rows_per_slab, tensor.rows - first)
            yield self._encode_slab(tensor, kind, first, rows)

    def _encode_slab(self, tensor: ModelTensor, kind: GgmlType, first: int, rows: int) -> memoryview:
        source, columns = tensor.source, tensor.columns
        raw_row, out_row = columns * source.dtype.nbytes, row_bytes(kind, columns)
        raw = self._raw = _at_least(self._raw, rows * raw_row)
        source.read_into(raw.data[: rows * raw_row], first * raw_row)
        if _SAME[source.dtype] is kind:
            self._check_source(source, raw[: rows * raw_row], first, columns)
            return raw.data[: rows * raw_row]
        f32 = self._f32 = _at_least(self._f32, rows * columns * 4)
        out = self._encoded = _at_least(self._encoded, rows * out_row)

        def work(begin: int, end: int) -> None:
            part = raw[begin * raw_row : end * raw_row]
            self._check_source(source, part, first + begin, columns)
            numbers = f32[begin * columns * 4 : end * columns * 4].view(np.float32)
            if source.dtype is Dtype.BF16:
                self._ggml.bf16_to_f32(part.ctypes.data, numbers.ctypes.data, numbers.size)
            elif source.dtype is Dtype.F16:
                self._ggml.f16_to_f32(part.ctypes.data, numbers.ctypes.data, numbers.size)
            else:
                numbers = part.view(np.float32)
            try:
                if kind is GgmlType.Q6_K and max(np.max(numbers), -np.min(numbers)) > _Q6_K_END:
                    raise ValueError(f"numbers too large for {kind.name}")
                self._ggml.quantize(kind, numbers.ctypes.data, out.ctypes.data + begin * out_row, end - begin, columns)
            except ValueError as error:
                raise ConvertError(f"tensor {printable(source.name)}: {error}; use bf16 instead") from None
            if kind in _EXPONENT and _first_not_finite(out[begin * out_row : end * out_row], kind) is not None:
                raise ConvertError(
                    f"tensor {printable(source.name)}: numbers too large for {kind.name}; use bf16 instead"
                )

        bounds = sorted({rows * i // self._threads for i in range(self._threads + 1)})
        list(self._pool.map(lambda span: work(*span), list(pairwise(bounds))))
        return out.data[: rows * out_row]

    def _check_source(self, source: StoredTensor, raw: np.ndarray[Any, Any], first_row: int, columns: int) -> None:
        at = _first_not_finite(raw, _SAME[source.dtype])
        if at is not None:
            row, column = divmod(at, columns)
            raise CheckpointError(
                f"{printable(source.file.name)}: tensor {printable(source.name)} holds an infinity or NaN "
                f"in row {first_row + row}, column {column}; only finite numbers are allowed"
            )


def _at_least(buffer: np.ndarray[Any, Any], nbytes: int) -> np.ndarray[Any, Any]:
    return buffer if buffer.nbytes >= nbytes else np.empty(nbytes, np.uint8)


def _first_not_finite(data: np.ndarray[Any, Any], kind: GgmlType) -> int | None:
    word, mask = _EXPONENT[kind]
    words = data.view(word)
    for at in range(0, len(words), _CHECK_WORDS):
        exponents = words[at : at + _CHECK_WORDS] & word(mask)
        if int(exponents.max()) == mask:
            return at + int(np.argmax(exponents == mask))
    return None
