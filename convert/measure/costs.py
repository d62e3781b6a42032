"""How much work a measurement is, by the shapes of the matrices: what its progress counts.

The unit is a multiply-add of numpy; the factors are of a 0.5B on an Intel Xeon at 2.8 GHz.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..quantize.ggml import GgmlType
from ..read.tensors import ModelTensor
from .moments import input_group

# Rounding a weight to a type, the mean of the types.
_ROUNDED = 12_000
# Spreading its error over the columns behind it, and its part of the loss: for each column.
_SPREAD = 3.5
# llama.cpp's products of BF16 take longer than numpy's.
_BF16 = 2.0


@dataclass(frozen=True, slots=True)
class Costs:
    """matrices: of the whole model, as they are multiplied; texts: tokens of each calibration text; measured: tokens
    for a divergence."""

    matrices: Sequence[ModelTensor]
    texts: Sequence[int]
    measured: int

    def rounding(self, parts: Sequence[Sequence[ModelTensor]], kinds: Mapping[str, Sequence[GgmlType]]) -> float:
        """Calibrating and encoding these parts."""
        return sum(
            self.calibrating(part) + sum(len(kinds[tensor.name]) * self.encoding(tensor) for tensor in part)
            for part in parts
        )

    def calibrating(self, part: Sequence[ModelTensor]) -> float:
        """Running the texts up to the last of these matrices, and their moments."""
        names = [tensor.name for tensor in self.matrices]
        last = max(names.index(tensor.name) for tensor in part)
        run = _BF16 * sum(tensor.rows * tensor.columns for tensor in self.matrices[: last + 1])
        moments = {input_group(tensor.name): tensor.columns**2 for tensor in part}
        return sum(self.texts) * (run + sum(moments.values()))

    def encoding(self, tensor: ModelTensor) -> float:
        """Rounding to one type with feedback, and its loss."""
        return tensor.rows * tensor.columns * (_ROUNDED + _SPREAD * tensor.columns)

    def measuring(self, tensors: Sequence[ModelTensor]) -> float:
        """The divergences of the model, with one of these matrices rounded at a time."""
        return len(tensors) * self.measured * _BF16 * sum(tensor.rows * tensor.columns for tensor in self.matrices)
