"""The types that diverge least within a budget of bytes.

Each tensor has options, and their divergences add up to first order. This is a knapsack with one choice per tensor. It
goes up the lower convex hulls and always takes the step that gains most per byte (Lagrangian relaxation). A step that
no longer fits is skipped for smaller ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .quantize.ggml import GgmlType
from .write.gguf_file import padded


@dataclass(frozen=True, slots=True)
class Option:
    kind: GgmlType
    nbytes: int
    divergence: float  # In nats, measured as this type or scaled from another one.
    is_measured: bool = True

    @property
    def file_bytes(self) -> int:
        """Includes the padding up to the next tensor in the file."""
        return padded(self.nbytes)


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option]:
    """An option for each tensor, together at most `budget` bytes. Raises ValueError if the smallest need more."""
    hulls = {name: _hull(choices) for name, choices in options.items()}
    chosen = dict.fromkeys(hulls, 0)
    left = budget - sum(hull[0].file_bytes for hull in hulls.values())
    if left < 0:
        raise ValueError(f"{budget} bytes are {-left} too few")
    steps = [
        (_gain_per_byte(low, high), name, number)
        for name, hull in hulls.items()
        for number, (low, high) in enumerate(pairwise(hull))
    ]
    for _, name, number in sorted(steps, key=lambda step: (-step[0], step[1:])):
        hull = hulls[name]
        cost = hull[number + 1].file_bytes - hull[number].file_bytes
        # If the step before did not fit, this one is not possible.
        if chosen[name] == number and cost <= left:
            chosen[name] = number + 1
            left -= cost
    return {name: hull[chosen[name]] for name, hull in hulls.items()}


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options worth their bytes, the smallest first. Each step gains less per byte than the one before."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.file_bytes, option.divergence)):
        if hull and option.divergence >= hull[-1].divergence:
            continue
        while len(hull) > 1 and _gain_per_byte(hull[-2], hull[-1]) <= _gain_per_byte(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _gain_per_byte(low: Option, high: Option) -> float:
    return (low.divergence - high.divergence) / (high.file_bytes - low.file_bytes)
