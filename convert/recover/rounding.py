"""Matrices of 4-bit levels that are trained through their rounding.

In Q4_0 and IQ4_NL, 32 numbers share a scale (F16), and each has a code of 4 bits that names a level of a table.
Source: block_q4_0, block_iq4_nl and kvalues_iq4nl in ggml/src/ggml-common.h of llama.cpp.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..quantize.ggml import Floats, GgmlType

_BLOCK, _BLOCK_BYTES = 32, 18
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
TABLES = {GgmlType.Q4_0: tuple(range(-8, 8)), GgmlType.IQ4_NL: _IQ4_NL}
# Initial levels keep this share of the gap from the middle, so that they round to the encoded code.
_MARGIN = 0.01


class _Table(NamedTuple):
    levels: Any
    middles: Any  # Between each level and the next. All of them fall on steps of a half.
    nearest: Any  # The code at each step of a half from the first level on; torch.bucketize is ten times slower.

    @classmethod
    def of(cls, kind: GgmlType) -> "_Table":
        levels = torch.tensor(TABLES[kind], dtype=torch.float32)
        middles = (levels[1:] + levels[:-1]) / 2
        nearest = torch.bucketize(torch.arange(float(levels[0]) + 0.25, float(levels[-1]) + 0.5, 0.5), middles)
        return cls(levels, middles, nearest.int())

    def codes(self, levels: Any) -> Any:
        """The code of the level nearest to each of these, which must be within the table."""
        steps = ((levels - self.levels[0]) * 2).int()
        return self.nearest.index_select(0, steps.flatten()).view(levels.shape)

    def rounded(self, levels: Any) -> Any:
        return self.levels.index_select(0, self.codes(levels).flatten()).view(levels.shape)


class RoundedLinear(torch.nn.Module):  # type: ignore[misc]
    """A linear layer whose matrix is of a type of TABLES.

    Levels are trained as numbers that are rounded to the table, with the straight-through gradient. They begin at the
    `original` weights [rows, columns], moved just so far that they round to the codes of `encoded` [rows, bytes].
    """

    def __init__(self, kind: GgmlType, original: Any, encoded: npt.NDArray[np.uint8], bias: Any) -> None:
        super().__init__()
        self.kind = kind
        self._table = table = _Table.of(kind)
        self._scales, codes = map(torch.from_numpy, _split(encoded))
        gaps = table.levels[1:] - table.levels[:-1]
        self.mean_gap = float(gaps.mean())
        low = torch.cat((table.levels[:1], table.middles + _MARGIN * gaps))[codes.int()]
        high = torch.cat((table.middles - _MARGIN * gaps, table.levels[-1:]))[codes.int()]
        levels = original.unflatten(1, (-1, _BLOCK)) / self._scales.where(self._scales != 0, 1)
        self.levels = torch.nn.Parameter(levels.clamp(low, high))
        # Relative, so that one rate fits all matrices.
        self.growth = torch.nn.Parameter(torch.zeros_like(self._scales))
        self.bias = bias

    def forward(self, inputs: Any) -> Any:
        return torch.nn.functional.linear(inputs, self.weight(), self.bias)

    def weight(self) -> Any:
        """The matrix as rounded, [rows, columns]."""
        return _Rounding.apply(self.levels, self.growth, self._scales, self._table)

    def clamp(self) -> None:
        """Moves levels back into the table, because beyond its ends they would move without an effect."""
        self.levels.data.clamp_(float(self._table.levels[0]), float(self._table.levels[-1]))

    def encode(self) -> npt.NDArray[np.uint8]:
        scales = (self._scales * (1 + self.growth.detach())).half()
        return _join(scales.numpy(), self._table.codes(self.levels.detach()).numpy().astype(np.uint8))


class _Rounding(torch.autograd.Function):  # type: ignore[misc]
    """Levels of the table times scales in F16. Gradients pass both roundings."""

    @staticmethod
    def forward(context: Any, levels: Any, growth: Any, scales: Any, table: _Table) -> Any:
        rounded = table.rounded(levels)
        grown = (scales * (1 + growth)).half().float()
        context.save_for_backward(rounded, grown, scales)
        return (rounded * grown).flatten(1)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Any, Any, None, None]:
        rounded, grown, scales = context.saved_tensors
        gradient = gradient.view(rounded.shape)
        return gradient * grown, (gradient * rounded).sum(-1, keepdim=True) * scales, None, None


def _split(encoded: npt.NDArray[np.uint8]) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Scales [rows, blocks, 1] and codes [rows, blocks, 32]."""
    blocks = encoded.reshape(len(encoded), -1, _BLOCK_BYTES)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    return scales, np.concatenate((blocks[..., 2:] & 15, blocks[..., 2:] >> 4), axis=-1)


def _join(scales: npt.NDArray[np.float16], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    half = _BLOCK // 2
    nibbles = codes[..., :half] | codes[..., half:] << 4
    blocks = np.concatenate((np.ascontiguousarray(scales).view(np.uint8), nibbles), axis=-1)
    return blocks.reshape(len(blocks), -1)
