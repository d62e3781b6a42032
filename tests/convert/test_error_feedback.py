"""Rounding with error feedback."""

import numpy as np
import numpy.typing as npt
import pytest

from convert.errors import ConvertError
from convert.quantize import ggml
from convert.quantize.error_feedback import ErrorFeedback, loss
from convert.quantize.ggml import GgmlType, row_bytes

Floats = npt.NDArray[np.float32]


def correlated_inputs(columns: int) -> Floats:
    """Inputs with some strong directions, as those of a language model have."""
    randoms = np.random.default_rng(3)
    basis = randoms.normal(size=(columns // 8, columns))
    return (randoms.normal(size=(2000, columns // 8)) @ basis + randoms.normal(size=(2000, columns))).astype(np.float32)


def weights(rows: int, columns: int) -> Floats:
    return np.random.default_rng(4).normal(size=(rows, columns)).astype(np.float32)


def plain(matrix: Floats, kind: GgmlType) -> Floats:
    """The matrix as ggml alone rounds it."""
    rows, columns = matrix.shape
    encoded = np.empty((rows, row_bytes(kind, columns)), np.uint8)
    ggml.quantize(kind, matrix, encoded)
    return decoded(encoded, kind, columns)


def decoded(encoded: npt.NDArray[np.uint8], kind: GgmlType, columns: int) -> Floats:
    numbers = np.empty((len(encoded), columns), np.float32)
    ggml.dequantize(kind, encoded, numbers)
    return numbers


@pytest.mark.parametrize("kind", [GgmlType.IQ4_NL, GgmlType.Q4_0, GgmlType.Q5_1, GgmlType.Q8_0, GgmlType.Q5_K])
def test_the_products_are_nearer_than_those_of_plain_rounding(kind: GgmlType) -> None:
    matrix, inputs = weights(32, 512), correlated_inputs(512)
    moments = inputs.T @ inputs
    encoded, known = ErrorFeedback(moments).encode(matrix, kind)
    np.testing.assert_array_equal(known, decoded(encoded, kind, 512))
    own, other = loss(moments, matrix - known), loss(moments, matrix - plain(matrix, kind))
    assert own < 0.7 * other
    measured = float((((matrix - known) @ inputs.T) ** 2).sum())
    assert own == pytest.approx(measured, rel=1e-3), "the loss is that of the products"


def test_inputs_that_were_never_seen_do_no_harm() -> None:
    matrix, inputs = weights(8, 64), correlated_inputs(64)
    inputs[:, 32:] = 0
    for moments in (inputs.T @ inputs, np.zeros((64, 64), np.float32)):
        _, known = ErrorFeedback(moments).encode(matrix, GgmlType.Q8_0)
        assert np.abs(matrix - known).max() < 0.2


def test_inputs_that_are_not_finite_are_refused() -> None:
    moments = np.eye(64, dtype=np.float32)
    moments[3, 5] = np.nan
    with pytest.raises(ConvertError, match="not finite"):
        ErrorFeedback(moments)
