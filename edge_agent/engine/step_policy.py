"""PURE: how many rows a step should have, and how many threads, by what steps cost on this machine.

A step's cost is no straight line of its rows: repacked kernels work on groups of four rows, flash attention changes
its kernel at 64 rows (GGML_FA_TILE_Q), and threads that help a wide step slow a narrow one down where memory is the
limit. So nothing is derived from the name of a board: calibration.py measures, and this decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# A choice other than the plain one must promise this much, for measurements on a busy board scatter.
_WORTH_IT = 1.1
# A smaller step than the most efficient one is preferred up to this loss: cancel and deadlines act between steps.
_EFFICIENT = 0.9
_FEWEST_BUDGET_ROWS = 16
# From so many rows on a batch is bound by arithmetic rather than by memory.
WIDE_ROWS = 8


@dataclass(frozen=True, slots=True)
class StepCost:
    """One step with this many rows took so long with its best number of threads."""

    rows: int
    threads: int
    seconds: float


class StepPolicy:
    """costs: in ascending order of rows; empty = nothing was measured, `threads` and `prefill_threads` are the rule."""

    def __init__(
        self, costs: Sequence[StepCost], *, threads: int, prefill_threads: int, batch_tokens: int | None, most_rows: int
    ) -> None:
        self._costs = tuple(costs)
        self._threads = threads
        self._prefill_threads = prefill_threads
        self.batch_tokens = batch_tokens or self._efficient_rows(most_rows)

    def threads(self, rows: int) -> int:
        """How many threads a step of this many rows runs with."""
        below = [cost for cost in self._costs if cost.rows <= rows]
        if below:
            return below[-1].threads
        return self._prefill_threads if rows >= WIDE_ROWS else self._threads

    def seconds(self, rows: int) -> float | None:
        """Between two measured sizes a step costs what those below let expect; None = nothing was measured."""
        if not self._costs:
            return None
        for low, high in pairwise(self._costs):
            if low.rows <= rows < high.rows:
                return low.seconds + (rows - low.rows) * self._seconds_per_row(low)
        last = self._costs[-1]
        return last.seconds + (rows - last.rows) * self._seconds_per_row(last)

    def fitted(self, rows: int) -> int:
        """The rows to take of so many that wait: fewer, where the kernels then get through more of them per second."""
        plain = self.seconds(rows)
        if plain is None:
            return rows
        best = max((cost for cost in self._costs if cost.rows < rows), key=_rows_per_s, default=None)
        if best is not None and _rows_per_s(best) > _WORTH_IT * rows / plain:
            return best.rows
        return rows

    def padded(self, rows: int) -> int:
        """The rows to make of so many: more, where a wider kernel is faster although some of its rows are idle."""
        plain = self.seconds(rows)
        if plain is None:
            return rows
        best = min((cost for cost in self._costs if cost.rows > rows), key=lambda cost: cost.seconds, default=None)
        return best.rows if best is not None and _WORTH_IT * best.seconds < plain else rows

    def _seconds_per_row(self, low: StepCost) -> float:
        before = [cost for cost in self._costs if cost.rows < low.rows]
        if not before:
            return 0.0
        return max(0.0, (low.seconds - before[-1].seconds) / (low.rows - before[-1].rows))

    def _efficient_rows(self, most_rows: int) -> int:
        """The smallest step that gets through nearly as many rows per second as the best one."""
        sizes = [cost for cost in self._costs if _FEWEST_BUDGET_ROWS <= cost.rows <= most_rows]
        best = max(map(_rows_per_s, sizes), default=0.0)
        return next((cost.rows for cost in sizes if _rows_per_s(cost) >= _EFFICIENT * best), most_rows)


def _rows_per_s(cost: StepCost) -> float:
    return cost.rows / cost.seconds
