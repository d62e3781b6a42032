"""What the next step decodes: which tokens of which requests, how wide it is, on how many threads, when it begins.

This is continuous batching (Orca, OSDI 2022): requests join and leave between any two steps. With chunked prefill
(Sarathi-Serve, OSDI 2024), a long prompt never stops requests that already write.

A step's cost is not linear in its rows. Repacked kernels work on groups of four rows, and flash attention has another
kernel from 64 rows on (GGML_FA_TILE_Q). Threads that speed up a wide step slow down a narrow one that is bound by
memory. So nothing is derived from a board's name: step_costs.py measures, and this decides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edge_agent.engine.active_request import ActiveRequest
from edge_agent.engine.step.cache_sequence import CacheSequence

# From this many rows on a step is bound by arithmetic instead of memory.
WIDE_ROWS = 8
# Up to this many rows, a step is taken to be of requests that write. They want logits after every row.
WRITING_ROWS = 16
# Measurements on a busy board scatter, so idle rows must promise this much.
_WORTH_IT = 1.05
# A step that keeps others waiting may be smaller than the most efficient one if it keeps this share of its efficiency.
_EFFICIENT = 0.9
# A step of prompts alone is as wide as is efficient up to this time, because a new request waits for its end.
_MAX_PROMPT_STEP_S = 0.4
_MIN_BUDGET_ROWS = 16
_CACHED_SIZES = 4096
# Each row of logits that was ever used holds 1.2 MB, both where it is computed and where it is read.
_MAX_OUTPUTS = 16
# On x86 agent, broker and client need about 2 ms for an answer and the next request together.
_LINGER_SHARE = 0.3
_LINGER_WAY_S = 0.004


@dataclass(slots=True)
class StepPart:
    """The next `count` tokens of a request's sequence."""

    owner: ActiveRequest
    sequence: CacheSequence
    count: int


class Scheduler:
    """Chooses step after step. All requests that write are in each, prompts fill the rest.

    A step has at most `max_rows` rows, and logits after at most `max_outputs` of them.
    """

    def __init__(self, policy: StepPolicy, *, max_active: int, max_rows: int, max_outputs: int) -> None:
        self.policy = policy
        self.linger = Linger(_LINGER_SHARE, _LINGER_WAY_S)
        self._max_active = max_active
        self._max_rows = max_rows
        self._max_outputs = min(max_outputs, max(_MAX_OUTPUTS, max_active))
        self._is_shortest_first = False

    def linger_s(self, requests: Collection[ActiveRequest], now: float) -> float:
        """How long the next step should wait for more requests: not at all where the prompts alone fill it."""
        seconds = self.linger.seconds(now)
        is_full = seconds and _tokens_of(self._prompts(requests)) >= self.policy.prompt_batch_tokens
        return 0.0 if is_full else seconds

    def choose(self, requests: Collection[ActiveRequest]) -> list[StepPart]:
        """The parts of the next step of these requests, given by arrival; none where nothing waits."""
        writing, prompts = _writing(requests), self._prompts(requests)
        budget = self.policy.batch_tokens if writing else self.policy.prompt_batch_tokens
        parts = writing + prompts
        tokens = min(_tokens_of(parts), max(budget, self._max_active))
        slack = min(tokens // 4, self._max_rows - tokens) if prompts else 0
        if prompts:
            self._is_shortest_first = not self._is_shortest_first
        return next_batch(parts, tokens=tokens, outputs=self._max_outputs, slack=slack)

    def _prompts(self, requests: Collection[ActiveRequest]) -> list[StepPart]:
        """The prompts by arrival, every other time with the shortest first.

        So a long prompt does not hold up those behind it, and they do not hold it up forever.
        """
        prompts = [
            _part(request, request.sequence)
            for request in requests
            if request.sequence is not None and request.first_token_at is None
        ]
        if self._is_shortest_first:
            prompts.sort(key=lambda part: part.count)
        return prompts


def next_batch(parts: Sequence[StepPart], *, tokens: int, outputs: int, slack: int = 0) -> list[StepPart]:
    """Takes from the parts in order until the budget of tokens or of rows with logits is used up.

    The last part may exceed the budget of tokens by `slack`, so that a small rest does not cost a step of its own.
    """
    batch = []
    for part in parts:
        if part is not parts[-1] or part.count > tokens + slack:
            part.count = min(part.count, tokens)
        wanted = [offset for offset in part.sequence.pending_outputs if offset < part.count]
        if len(wanted) > outputs:
            # Stop before the first output that has no row left.
            part.count = wanted[outputs]
        if part.count:
            batch.append(part)
            tokens -= part.count
            outputs -= min(len(wanted), outputs)
        if tokens <= 0:
            break
    return batch


def _writing(requests: Collection[ActiveRequest]) -> list[StepPart]:
    """Requests that write, and label branches."""
    parts: list[StepPart] = []
    for request in requests:
        if request.first_token_at is not None and request.sequence is not None:
            sequences = [request.sequence, *request.branches] if request.sequence.pending else request.branches
            parts += [_part(request, sequence) for sequence in sequences]
    return parts


def _part(owner: ActiveRequest, sequence: CacheSequence) -> StepPart:
    return StepPart(owner, sequence, sequence.pending)


def _tokens_of(parts: Sequence[StepPart]) -> int:
    return sum(part.count for part in parts)


class Linger:
    """A moment's pause after answers, so that clients that ask again at once share the next step.

    It waits only for as many requests as were answered, so a client that is alone never waits.
    """

    def __init__(self, share: float, way_s: float) -> None:
        """The answered requests' places may stay empty for this share of a step's time.

        `way_s` is the time for an answer's way to its client and the next request's way back.
        """
        self._share = share
        self._way_s = way_s
        self._missing = 0
        self._until = 0.0

    def requests_ended(self, count: int, *, running: int, step_s: float, now: float) -> None:
        """A step of `step_s` seconds ended `count` of the running requests."""
        self._missing = count
        self._until = now + count * min(self._share * step_s / running, self._way_s)

    def request_added(self) -> None:
        """One of those that are waited for may have come."""
        self._missing -= 1

    def seconds(self, now: float) -> float:
        """How long to wait; 0 if not at all."""
        return max(0.0, self._until - now) if self._missing > 0 else 0.0


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step with this many rows takes with its best number of threads.

    Up to WRITING_ROWS with the logits of every row, beyond with those of one.
    """

    rows: int
    threads: int
    seconds: float


class StepPolicy:
    """Chooses widths and threads by measured costs, in ascending order; without costs, it takes the given threads.

    A step that others wait for has at most `batch_tokens` rows, a step of prompts alone `prompt_batch_tokens`.
    """

    def __init__(
        self, costs: Sequence[StepCost], *, threads: int, prefill_threads: int, batch_tokens: int | None, max_rows: int
    ) -> None:
        self._costs = tuple(costs)
        self._threads = threads
        self._prefill_threads = prefill_threads
        # The smallest and the widest of the efficient steps: fewer steps have less overhead.
        efficient = self._efficient_rows(_MIN_BUDGET_ROWS, max_rows)
        self._unlimited_batch_tokens = batch_tokens or min(efficient, default=max_rows)
        efficient = self._efficient_rows(self._unlimited_batch_tokens, max_rows)
        self._unlimited_prompt_batch_tokens = batch_tokens or max(efficient, default=self._unlimited_batch_tokens)
        self.limit()
        self.padded = lru_cache(_CACHED_SIZES)(self._padded)  # Asked at every step, about few sizes.

    def limit(
        self, *, threads: int | None = None, prefill_threads: int | None = None, batch_tokens: int | None = None
    ) -> None:
        """Bounds the threads of narrow and of wide steps and the rows of a step, until the next call."""
        self._max_threads, self._max_prefill_threads = threads, prefill_threads
        self.batch_tokens = _at_most(self._unlimited_batch_tokens, batch_tokens)
        self.prompt_batch_tokens = _at_most(self._unlimited_prompt_batch_tokens, batch_tokens)

    def threads(self, rows: int) -> int:
        measured = [cost.threads for cost in self._costs if cost.rows <= rows]
        if rows >= WIDE_ROWS:
            return _at_most(measured[-1] if measured else self._prefill_threads, self._max_prefill_threads)
        return _at_most(measured[-1] if measured else self._threads, self._max_threads)

    def _padded(self, rows: int) -> int:
        """The rows to run for these: more, where a wider kernel is faster although some rows are idle."""
        # Steps with and without the logits of every row do not compare.
        is_writing = rows <= WRITING_ROWS
        comparable = [cost for cost in self._costs if (cost.rows <= WRITING_ROWS) is is_writing]
        narrower, wider = [c for c in comparable if c.rows <= rows], [c for c in comparable if c.rows > rows]
        if not narrower or not wider:
            return rows
        best = min(wider, key=lambda cost: cost.seconds)
        return best.rows if _WORTH_IT * best.seconds < narrower[-1].seconds else rows

    def _efficient_rows(self, min_rows: int, max_rows: int) -> list[int]:
        """The measured sizes that are short enough and get through nearly as many rows per second as the best one."""
        sizes = [cost for cost in self._costs if min_rows <= cost.rows <= max_rows]
        short = [cost for cost in sizes if cost.seconds <= _MAX_PROMPT_STEP_S] or sizes[:1]
        best = max((cost.rows / cost.seconds for cost in short), default=0.0)
        return [cost.rows for cost in short if cost.rows / cost.seconds >= _EFFICIENT * best]


def _at_most(value: int, limit: int | None) -> int:
    return value if limit is None else min(value, limit)
