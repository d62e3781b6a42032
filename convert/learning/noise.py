"""Readings that are unlike all rows: from them a model learns to tell such readings (noise-contrastive estimation)."""

from collections.abc import Sequence

import numpy as np

from ..agent import Control, FieldTable

Parts = Sequence[Control | str]
KINDS = ("any", "of other rows", "shifted")


class Noise:
    """Draws prompts like those of the rows, but for one number, some or all.

    prompts: of the rows of one task, by FieldTable.parts. One of its fields should be a number.
    """

    def __init__(self, table: FieldTable, prompts: Sequence[Parts], draw: np.random.Generator) -> None:
        self._draw = draw
        self._bins = {state: field.bins for field in table.fields if field.bins for state in field.controls}
        self._numbers = [[part for part in parts if part in self._bins] for parts in prompts]
        self._prompts = prompts

    def prompt(self) -> list[Control | str]:
        """With numbers that are any, those of other rows, or all greater or all less by a share of their bins."""
        row = self._below(len(self._prompts))
        numbers, kind, shift = list(self._numbers[row]), self._draw.choice(KINDS), self._draw.uniform(-1, 1)
        for at in self._draw.permutation(len(numbers))[: 1 + self._below(len(numbers))].tolist():
            bins = self._bins[numbers[at]]
            if kind == "any":
                numbers[at] = bins[self._below(len(bins))]
            elif kind == "of other rows":
                numbers[at] = self._numbers[self._below(len(self._numbers))][at]
            elif numbers[at] in bins:
                moved = bins.index(numbers[at]) + round(shift * len(bins))
                numbers[at] = bins[min(max(moved, 0), len(bins) - 1)]
        drawn = iter(numbers)
        return [next(drawn) if part in self._bins else part for part in self._prompts[row]]

    def _below(self, end: int) -> int:
        return int(self._draw.integers(end))
