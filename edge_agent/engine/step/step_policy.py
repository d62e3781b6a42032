"""How many rows a step has, and with how many threads it runs, by what steps cost here.

A step's cost is not linear in its rows. Repacked kernels work on groups of four rows, and flash attention has another
kernel from 64 rows on (GGML_FA_TILE_Q). Threads that speed up a wide step slow down a narrow one that is bound by
memory. So nothing is derived from a board's name: step_costs.py measures, and this decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# From this many rows on a step is bound by arithmetic instead of memory.
WIDE_ROWS = 8
# Up to this many rows, a step is taken to be of requests that write. They want logits after every row.
WRITING_ROWS = 16
# Measurements on a busy board scatter: idle rows must promise this much.
_WORTH_IT = 1.05
# A smaller step than the most efficient one is preferred up to this loss where it keeps others waiting.
_EFFICIENT = 0.9
# A step of prompts alone is as wide as is efficient up to this time: a new request waits for its end.
_LONGEST_PROMPT_STEP_S = 0.4
_FEWEST_BUDGET_ROWS = 16
_CACHED_SIZES = 4096


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step with this many rows takes with its best number of threads.

    Up to WRITING_ROWS with the logits of every row, beyond with those of one.
    """

    rows: int
    threads: int
    seconds: float


class StepPolicy:
    """Chooses widths and threads. costs: ascending; none = nothing was measured, and `threads` are the given ones.

    batch_tokens: the rows of a step that others wait for; prompt_batch_tokens: those of a step of prompts alone.
    """

    def __init__(
        self, costs: Sequence[StepCost], *, threads: int, prefill_threads: int, batch_tokens: int | None, most_rows: int
    ) -> None:
        self._costs = tuple(costs)
        self._threads = threads
        self._prefill_threads = prefill_threads
        # The smallest and the widest of the efficient steps: fewer steps have less overhead.
        efficient = self._efficient_rows(_FEWEST_BUDGET_ROWS, most_rows)
        self._own_batch_tokens = batch_tokens or min(efficient, default=most_rows)
        efficient = self._efficient_rows(self._own_batch_tokens, most_rows)
        self._own_prompt_batch_tokens = batch_tokens or max(efficient, default=self._own_batch_tokens)
        self.limit()
        # Asked at every step, about few sizes.
        self.padded = lru_cache(_CACHED_SIZES)(self._padded)

    def limit(
        self, *, threads: int | None = None, prefill_threads: int | None = None, batch_tokens: int | None = None
    ) -> None:
        """Bounds the threads of narrow and of wide steps and the rows of a step, until the next call."""
        self._most_threads, self._most_prefill_threads = threads, prefill_threads
        self.batch_tokens = _at_most(self._own_batch_tokens, batch_tokens)
        self.prompt_batch_tokens = _at_most(self._own_prompt_batch_tokens, batch_tokens)

    def threads(self, rows: int) -> int:
        """The number of threads for a step of this many rows."""
        measured = [cost.threads for cost in self._costs if cost.rows <= rows]
        if rows >= WIDE_ROWS:
            return _at_most(measured[-1] if measured else self._prefill_threads, self._most_prefill_threads)
        return _at_most(measured[-1] if measured else self._threads, self._most_threads)

    def _padded(self, rows: int) -> int:
        """The rows to run for these: more, where a wider kernel is faster although some rows are idle."""
        # Steps with and without the logits of every row do not compare.
        is_writing = rows <= WRITING_ROWS
        alike = [cost for cost in self._costs if (cost.rows <= WRITING_ROWS) is is_writing]
        narrower, wider = [c for c in alike if c.rows <= rows], [c for c in alike if c.rows > rows]
        if not narrower or not wider:
            return rows
        best = min(wider, key=lambda cost: cost.seconds)
        return best.rows if _WORTH_IT * best.seconds < narrower[-1].seconds else rows

    def _efficient_rows(self, fewest: int, most: int) -> list[int]:
        """The measured sizes that are short enough and get through nearly as many rows per second as the best one."""
        sizes = [cost for cost in self._costs if fewest <= cost.rows <= most]
        short = [cost for cost in sizes if cost.seconds <= _LONGEST_PROMPT_STEP_S] or sizes[:1]
        best = max((cost.rows / cost.seconds for cost in short), default=0.0)
        return [cost.rows for cost in short if cost.rows / cost.seconds >= _EFFICIENT * best]


def _at_most(value: int, limit: int | None) -> int:
    return value if limit is None else min(value, limit)
