"""Noise: prompts of rows with changed numbers, from which a model learns what is unlike the rows."""

from collections.abc import Sequence

import numpy as np

from ..agent import ControlToken, FieldTable, code_control

Parts = Sequence[ControlToken | str]
NOISE_KINDS = ("any", "of other rows", "shifted")


class Noise:
    """Draws the prompts of rows with one, some or all of their numbers changed (for noise-contrastive estimation).

    prompts: those of one task's rows, from FieldTable.parts. At least one of its fields has to be a number.
    """

    def __init__(self, table: FieldTable, prompts: Sequence[Parts], draw: np.random.Generator) -> None:
        self._draw = draw
        bins = {state: field.bins for field in table.fields if field.bins for state in field.controls}
        # Tokens of numbers; those of codes are the same in all fields.
        self._states = {*bins, *map(code_control, range(len(table.codes)))}
        self._numbers = [[part for part in parts if part in self._states] for parts in prompts]
        self._bins = [
            next(bins[part] for part in field_parts if part in bins) for field_parts in zip(*self._numbers, strict=True)
        ]
        self._prompts = prompts

    def prompt(self) -> list[ControlToken | str]:
        """A row's prompt. Changed numbers are random, from other rows, or all shifted by one share of their bins."""
        row = self._random_index(len(self._prompts))
        numbers, kind, shift = list(self._numbers[row]), self._draw.choice(NOISE_KINDS), self._draw.uniform(-1, 1)
        for changed in self._draw.permutation(len(numbers))[: 1 + self._random_index(len(numbers))].tolist():
            bins = self._bins[changed]
            if kind == "any":
                numbers[changed] = bins[self._random_index(len(bins))]
            elif kind == "of other rows":
                numbers[changed] = self._numbers[self._random_index(len(self._numbers))][changed]
            elif numbers[changed] in bins:
                moved = bins.index(numbers[changed]) + round(shift * len(bins))
                numbers[changed] = bins[min(max(moved, 0), len(bins) - 1)]
        drawn = iter(numbers)
        return [next(drawn) if part in self._states else part for part in self._prompts[row]]

    def _random_index(self, end: int) -> int:
        return int(self._draw.integers(end))
