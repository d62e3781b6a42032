"""PURE: how many rows a step should have, and how many threads, by what steps cost on this machine.

A step's cost is no straight line of its rows: repacked kernels work on groups of four rows, flash attention changes
its kernel at 64 rows (GGML_FA_TILE_Q), and threads that help a wide step slow a narrow one down where memory is the
limit. Nor is that of the rows whose logits are wanted: the output matrix has a kernel of its own (of a Q8_0 on x86 it
does 8 rows faster than 5). So nothing is derived from the name of a board: calibration.py measures, and this decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

# A choice other than the plain one must promise this much, for measurements on a busy board scatter.
_WORTH_IT = 1.05
# A smaller step than the most efficient one is preferred up to this loss where it keeps others waiting.
_EFFICIENT = 0.9
# A step of nothing but prompts is as wide as is efficient up to this time: who comes meanwhile waits for its end.
_LONGEST_PROMPT_STEP_S = 0.4
_AS_GOOD = 0.9
_FEWEST_BUDGET_ROWS = 16
_MOST_SIZES = 4096
# From so many rows on a batch is bound by arithmetic rather than by memory.
WIDE_ROWS = 8


@dataclass(frozen=True, slots=True)
class StepCost:
    """One step with this many rows, no logits wanted, took so long with its best number of threads."""

    rows: int
    threads: int
    seconds: float


@dataclass(frozen=True, slots=True)
class HeadCost:
    """Logits after this many of a step's rows took so much longer."""

    outputs: int
    seconds: float


class StepPolicy:
    """costs, heads: in ascending order; none = nothing was measured, `threads` and `prefill_threads` are the rule.

    batch_tokens: the rows of a step that others wait for; prompt_batch_tokens: of one of nothing but prompts.
    """

    def __init__(
        self,
        costs: Sequence[StepCost],
        heads: Sequence[HeadCost],
        *,
        threads: int,
        prefill_threads: int,
        batch_tokens: int | None,
        most_rows: int,
    ) -> None:
        self._costs = tuple(costs)
        self._heads = tuple(heads)
        self._threads = threads
        self._prefill_threads = prefill_threads
        self._own_batch_tokens = batch_tokens or self._efficient_rows(most_rows)
        self._own_prompt_batch_tokens = batch_tokens or self._prompt_rows(most_rows)
        self.limit()
        # Asked at every step, about few sizes.
        self.fitted = lru_cache(_MOST_SIZES)(self._fitted)
        self.padded = lru_cache(_MOST_SIZES)(self._padded)

    def limit(
        self, *, threads: int | None = None, prefill_threads: int | None = None, batch_tokens: int | None = None
    ) -> None:
        """At most so many threads of narrow and of wide steps, and rows per step, until it is said anew."""
        self._most_threads, self._most_prefill_threads = threads, prefill_threads
        self.batch_tokens = _at_most(self._own_batch_tokens, batch_tokens)
        self.prompt_batch_tokens = _at_most(self._own_prompt_batch_tokens, batch_tokens)

    def threads(self, rows: int) -> int:
        """How many threads a step of this many rows runs with."""
        below = [cost for cost in self._costs if cost.rows <= rows]
        if rows >= WIDE_ROWS:
            return _at_most(below[-1].threads if below else self._prefill_threads, self._most_prefill_threads)
        return _at_most(below[-1].threads if below else self._threads, self._most_threads)

    def seconds(self, rows: int, outputs: int) -> float | None:
        """What a step takes with logits after so many of its rows; None = nothing was measured."""
        return self._cost(rows, outputs) if self._costs else None

    def _fitted(self, rows: int, outputs: int) -> int:
        """The rows to take of so many that wait: fewer, where the kernels then get through more of them per second."""
        if not self._costs:
            return rows

        def rate(count: int) -> float:
            return count / self._cost(*self.padded(count, min(outputs, count)))

        best = max((cost.rows for cost in self._costs if cost.rows < rows), key=rate, default=rows)
        return best if rate(best) > _WORTH_IT * rate(rows) else rows

    def _padded(self, rows: int, outputs: int) -> tuple[int, int]:
        """The rows and outputs to make of so many: more, where wider kernels are faster although some of it is idle."""
        if not self._costs:
            return rows, outputs
        best = min(self._paddings(rows, outputs), key=lambda sizes: self._cost(*sizes))
        return best if _WORTH_IT * self._cost(*best) < self._cost(rows, outputs) else (rows, outputs)

    def _paddings(self, rows: int, outputs: int) -> Iterator[tuple[int, int]]:
        wider = [cost.rows for cost in self._costs if cost.rows > rows]
        more = [head.outputs for head in self._heads if head.outputs > outputs] if outputs else []
        for count in (outputs, *more):
            yield from ((width, count) for width in (rows, *wider) if width >= count)

    def _cost(self, rows: int, outputs: int) -> float:
        return self._body(rows) + self._head(outputs)

    def _body(self, rows: int) -> float:
        """Between two measured sizes a step costs what those below let expect."""
        for low, high in pairwise(self._costs):
            if low.rows <= rows < high.rows:
                return low.seconds + (rows - low.rows) * self._seconds_per_row(low)
        last = self._costs[-1]
        return last.seconds + (rows - last.rows) * self._seconds_per_row(last)

    def _head(self, outputs: int) -> float:
        """Between two measured numbers it costs what the larger one does, beyond them in proportion."""
        if not self._heads or not outputs:
            return 0.0
        for head in self._heads:
            if head.outputs >= outputs:
                return head.seconds
        last = self._heads[-1]
        return last.seconds * outputs / last.outputs

    def _seconds_per_row(self, low: StepCost) -> float:
        before = [cost for cost in self._costs if cost.rows < low.rows]
        if not before:
            return 0.0
        return max(0.0, (low.seconds - before[-1].seconds) / (low.rows - before[-1].rows))

    def _efficient_rows(self, most_rows: int) -> int:
        """The smallest step that gets through nearly as many rows per second as the best one."""
        sizes = [cost for cost in self._costs if _FEWEST_BUDGET_ROWS <= cost.rows <= most_rows]
        # Others wait for it: no wide step is worth more than that.
        short = [cost for cost in sizes if cost.seconds <= _LONGEST_PROMPT_STEP_S] or sizes[:1]
        best = max(map(_rows_per_s, short), default=0.0)
        return next((cost.rows for cost in short if _rows_per_s(cost) >= _EFFICIENT * best), most_rows)

    def _prompt_rows(self, most_rows: int) -> int:
        """The widest of the best steps: what a step costs beside its rows is paid less often."""
        sizes = [cost for cost in self._costs if self._own_batch_tokens <= cost.rows <= most_rows]
        short = [cost for cost in sizes if cost.seconds <= _LONGEST_PROMPT_STEP_S]
        best = max(map(_rows_per_s, short), default=0.0)
        return max(
            (cost.rows for cost in short if _rows_per_s(cost) >= _AS_GOOD * best), default=self._own_batch_tokens
        )


def _at_most(value: int, limit: int | None) -> int:
    return value if limit is None else min(value, limit)


def _rows_per_s(cost: StepCost) -> float:
    return cost.rows / cost.seconds
