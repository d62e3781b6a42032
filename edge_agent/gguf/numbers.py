"""Checks that a GGUF file's weights are finite numbers.

An infinity or NaN spoils the answers. Quantization may hide it: x86 kernels turn a NaN into a finite number.
Source: ggml/src/ggml-common.h of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.gguf.header import HeaderError, TensorInfo

_PART_BYTES = 1 << 20
# Type of a word, and the exponent bits; all of them are set in an infinity or NaN.
_F16 = np.dtype("<u2"), 0x7C00
_EXPONENTS: dict[str, tuple[np.dtype[Any], int]] = {
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F16": _F16,
    "BF16": (np.dtype("<u2"), 0x7F80),
}


def check_numbers(path: Path, tensors: Iterable[TensorInfo], advanced: Callable[[], object] = lambda: None) -> None:
    """Reads these tensors, 1 MB at a time. Raises HeaderError for a number that is not finite; OSError.

    advanced: called after each part.
    """
    for tensor in tensors:
        word, exponent = _EXPONENTS.get(tensor.type.name, _F16)
        places = tensor.type.scales or ((0,) if tensor.type.elements == 1 else ())
        bad = 0
        for blocks in _blocks(path, tensor) if places else ():
            for place in places:
                words = blocks[:, place : place + word.itemsize].view(word)
                bad += int(np.count_nonzero(words & exponent == exponent))
            advanced()
        if bad:
            raise HeaderError(f"tensor {tensor.name}: should hold finite numbers only (got {bad} that are not)")


def _blocks(path: Path, tensor: TensorInfo) -> Iterator[npt.NDArray[np.uint8]]:
    """Parts of the tensor, each as [blocks, bytes of a block]."""
    width = tensor.type.nbytes
    step = _PART_BYTES // width * width
    for start in range(0, tensor.nbytes, step):
        part = np.fromfile(path, np.uint8, min(step, tensor.nbytes - start), offset=tensor.offset + start)
        yield part.reshape(-1, width)
