"""A matrix's error as a product of low rank: what makes up most for it where its inputs are.

For inputs with second moments G the loss of an error E is the trace of E·G·Eᵀ. The best product of rank r leaves out r
singular values of E·L, the largest, with L·Lᵀ = G (EoRA, arXiv 2410.21271). With U their left singular vectors it is
U·(Uᵀ·E).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convert.measure.runner import Floats

# Moments of inputs that were hardly seen are not quite positive definite; as a share of the mean moment.
_RIDGE = 1e-4
# Bytes of a number in F16.
_NUMBER = 2


@dataclass(frozen=True, slots=True)
class Components:
    """The error is the sum over all k of b[:, k] · a[k]; shares: of the loss that each takes away, largest first.

    a: [most, columns], b: [rows, most].
    """

    shares: npt.NDArray[np.float64]
    a: Floats
    b: Floats

    @property
    def nbytes(self) -> int:
        """Of one of them."""
        return _NUMBER * (int(self.a.shape[1]) + len(self.b))


def components(error: Floats, moments: Floats, most: int) -> Components:
    """error: [rows, columns], moments: [columns, columns]."""
    rows, columns = error.shape
    if rows <= columns:
        squares, left = np.linalg.eigh(error @ moments @ error.T)
        b: Floats = left[:, ::-1][:, :most].astype(np.float32)
    else:
        damped = moments.astype(np.float64)
        damped[np.diag_indices_from(damped)] += _RIDGE * np.trace(damped) / columns
        product = error @ np.linalg.cholesky(damped).astype(np.float32)
        squares, right = np.linalg.eigh(product.T @ product)
        b = product @ right[:, ::-1][:, :most].astype(np.float32)
        b /= np.linalg.norm(b, axis=0)
    losses = np.maximum(squares[::-1], 0).astype(np.float64)
    return Components(losses[:most] / losses.sum(), b.T @ error, b)


def share_out(found: Mapping[str, Components], divergences: Mapping[str, float], budget: int) -> dict[str, int]:
    """Ranks of the matrices that get one, within so many bytes together: each step is that which gains most per byte.

    divergences: of each matrix alone, nats; a component gains its share of it.
    """
    steps = [
        (divergences[name] * float(share) / one.nbytes, name, rank)
        for name, one in found.items()
        for rank, share in enumerate(one.shares, 1)
    ]
    ranks: dict[str, int] = {}
    for _, name, rank in sorted(steps, key=lambda step: (-step[0], step[1:])):
        if found[name].nbytes > budget:
            break
        ranks[name] = rank
        budget -= found[name].nbytes
    return ranks


def predicted_gain(
    found: Mapping[str, Components], divergences: Mapping[str, float], ranks: Mapping[str, int]
) -> float:
    """Nats, if what each matrix alone costs adds up."""
    return sum(divergences[name] * float(found[name].shares[:rank].sum()) for name, rank in ranks.items())
