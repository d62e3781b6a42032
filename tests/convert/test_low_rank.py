"""The products of low rank that a repair is measured with."""

from __future__ import annotations

import numpy as np
import pytest

from convert.weights.feedback import loss
from rigs.quality.low_rank import components, predicted_gain, share_out


def inputs(columns: int) -> np.ndarray:
    """Second moments of inputs that are not alike."""
    numbers = np.random.default_rng(1).standard_normal((4 * columns, columns), np.float32)
    mixed = numbers * np.geomspace(1, 30, columns, dtype=np.float32)
    mixed[:, 0] += mixed[:, -1]
    return np.asarray(mixed.T @ mixed)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_no_other_product_of_that_rank_leaves_less(shape: tuple[int, int]) -> None:
    error = np.random.default_rng(2).standard_normal(shape, np.float32)
    moments = inputs(shape[1])
    factor = np.linalg.cholesky(moments.astype(np.float64))
    rest = np.linalg.svd(error @ factor, compute_uv=False) ** 2

    found = components(error, moments, 6)

    for rank in (1, 3, 6):
        left = error - found.b[:, :rank] @ found.a[:rank]
        assert loss(moments, left) == pytest.approx(rest[rank:].sum(), rel=1e-2)
        assert found.shares[:rank].sum() == pytest.approx(rest[:rank].sum() / rest.sum(), rel=1e-2)
    assert found.nbytes == 2 * sum(shape)


def test_ranks_go_where_they_gain_most_per_byte() -> None:
    random = np.random.default_rng(3)
    flat = random.standard_normal((32, 32)).astype(np.float32)
    one = np.outer(random.standard_normal(32), random.standard_normal(32)).astype(np.float32)
    found = {name: components(error, inputs(32), 4) for name, error in (("flat", flat), ("one", one))}
    divergences = {"flat": 0.1, "one": 0.1}

    first = share_out(found, divergences, 130)
    all_of_it = share_out(found, divergences, 10_000)

    assert first == {"one": 1}
    assert predicted_gain(found, divergences, first) == pytest.approx(0.1, rel=1e-3)
    assert all_of_it == {"one": 4, "flat": 4}
    assert share_out(found, divergences, 127) == {}
