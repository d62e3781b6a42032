"""Low-rank updates of a model's matrices: what an adapter consists of."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LowRank:
    """scale · B·A, added to the matrix of this GGUF name [rows, columns]; the scale is the adapter's alpha / rank.

    a, b: return A [rank, columns] and B [rows, rank], which are read only then.
    """

    name: str
    rows: int
    columns: int
    rank: int
    a: Callable[[], Floats]
    b: Callable[[], Floats]
