"""Tensor data from the checkpoint to GGUF, slab by slab: BF16, F16 or F32 → F32 → the tensor's type."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np

from ..errors import CheckpointError, ConvertError, escaped
from ..read.safetensors import Dtype
from ..read.tensors import ModelTensor
from . import ggml
from .ggml import GgmlType, row_bytes

MAX_THREADS = 16
SLAB_F32_BYTES = 16 << 20  # larger slabs were not faster, and Ctrl-C waits for the end of one
FLOAT_TYPES = {Dtype.BF16: GgmlType.BF16, Dtype.F16: GgmlType.F16, Dtype.F32: GgmlType.F32}


def processors() -> int:
    """The processors that this process may use, at most MAX_THREADS."""
    if hasattr(os, "sched_getaffinity"):
        return min(MAX_THREADS, len(os.sched_getaffinity(0)))
    return min(MAX_THREADS, os.cpu_count() or 1)


def encode_tensor(
    tensor: ModelTensor, kind: GgmlType, threads: int, slab_f32_bytes: int = SLAB_F32_BYTES
) -> Iterator[memoryview]:
    """The tensor's bytes as `kind`, in parts of whole rows, so that memory does not grow with the tensor.

    The bytes do not depend on the number of threads. Raises CheckpointError for a weight that is infinite or NaN,
    ConvertError for one that `kind` cannot hold, because as an infinity it would make the model's output garbage.
    """
    rows_per_slab = max(1, slab_f32_bytes // 4 // tensor.columns)
    with ThreadPoolExecutor(threads, thread_name_prefix="quantize") as pool:
        for first in range(0, tensor.rows, rows_per_slab):
            rows = min(rows_per_slab, tensor.rows - first)
            spans = list(pairwise(sorted({first + rows * i // threads for i in range(threads + 1)})))
            work = partial(_encode_rows, tensor, kind)
            for part in pool.map(work, spans):
                yield part.data


def _encode_rows(tensor: ModelTensor, kind: GgmlType, span: tuple[int, int]) -> ggml.Buffer:
    source, columns, (begin, end) = tensor.source, tensor.columns, span
    row_nbytes = columns * source.dtype.nbytes
    raw = np.empty((end - begin) * row_nbytes, np.uint8)
    source.read_into(raw.data, begin * row_nbytes)
    same = FLOAT_TYPES[source.dtype]
    if not ggml.is_sound(raw, same):
        raise CheckpointError(
            f"{escaped(source.file.name)}: tensor {escaped(source.name)} holds an infinity or NaN; "
            "only finite numbers are allowed"
        )
    if same is kind:
        return raw
    numbers = ggml.dequantized(same, raw.reshape(end - begin, -1), columns)
    encoded = np.empty((end - begin) * row_bytes(kind, columns), np.uint8)
    try:
        ggml.quantize(kind, numbers, encoded)
    except ConvertError as error:
        raise ConvertError(f"tensor {escaped(source.name)}: {error}") from None
    return encoded
