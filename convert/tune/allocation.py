"""PURE: the types that diverge least within a budget of bytes.

Each tensor has options; their divergences add up (for small errors it is so to first order, and the finished model is
measured anyway). A knapsack with a choice per tensor: steps along the lower convex hulls, the most worthwhile first
(Lagrangian relaxation); what does not fit any more is passed over for smaller steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..weights.ggml import GgmlType
from ..write.gguf_file import padded


@dataclass(frozen=True, slots=True)
class Option:
    """One type for one tensor: its bytes, and its divergence in nats, measured as this type or scaled from another."""

    kind: GgmlType
    nbytes: int
    divergence: float
    is_measured: bool = True

    @property
    def file_bytes(self) -> int:
        """With what fills it up to the next tensor's place in the file."""
        return padded(self.nbytes)


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option] | None:
    """An option for each tensor, within so many bytes together; None if even the smallest are more."""
    hulls = {name: _hull(choices) for name, choices in options.items()}
    at = dict.fromkeys(hulls, 0)
    left = budget - sum(hull[0].file_bytes for hull in hulls.values())
    if left < 0:
        return None
    steps = [
        ((low.divergence - high.divergence) / (high.file_bytes - low.file_bytes), name, number)
        for name, hull in hulls.items()
        for number, (low, high) in enumerate(pairwise(hull))
    ]
    for _, name, number in sorted(steps, key=lambda step: (-step[0], step[1:])):
        hull = hulls[name]
        cost = hull[number + 1].file_bytes - hull[number].file_bytes
        # A step whose predecessor did not fit is none.
        if at[name] == number and cost <= left:
            at[name] = number + 1
            left -= cost
    return {name: hull[at[name]] for name, hull in hulls.items()}


def _hull(options: Sequence[Option]) -> list[Option]:
    """Those that are worth their bytes, from the smallest on: each step gains less per byte than the one before."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.file_bytes, option.divergence)):
        if hull and option.divergence >= hull[-1].divergence:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _gain(low: Option, high: Option) -> float:
    """Nats per byte."""
    return (low.divergence - high.divergence) / (high.file_bytes - low.file_bytes)
