"""Which rows the next step takes, of all that requests and prefixes wait to have decoded."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edge_agent.engine.prompt.task_prefixes import TaskPrefixes
from edge_agent.engine.request import Request, Stream
from edge_agent.engine.step.scheduler import Turn, Turns, next_batch
from edge_agent.engine.step.step_policy import StepPolicy

# Of a step, for a row of logits that was ever used holds 1.2 MB: where it is computed, and where it is read.
_MOST_OUTPUTS = 16
# From so many rows on flash attention works on tiles (GGML_FA_TILE_Q).
_WIDE_ROWS = 64
# Who writes waits about this long at most for prompts that come between.
_STALL_S = 0.5


Row = tuple[Request | None, Stream]


class NextStep:
    """Chooses step after step, and remembers whose turn it is.

    most_rows, most_outputs: what the context has room for in one step.
    """

    def __init__(
        self, policy: StepPolicy, prefixes: TaskPrefixes, *, max_active: int, most_rows: int, most_outputs: int
    ) -> None:
        self.policy = policy
        self._prefixes = prefixes
        self._max_active = max_active
        self._most_rows = most_rows
        self._most_outputs = min(most_outputs, max(_MOST_OUTPUTS, max_active))
        prompt_step_s = policy.seconds(policy.prompt_batch_tokens, 1) or _STALL_S
        self._turns = Turns(_WIDE_ROWS, max(1, int(_STALL_S / prompt_step_s)))
        self._served = 0
        self._is_shortest_first = False

    def is_full(self, requests: Collection[Request]) -> bool:
        """Whether prompts alone fill it."""
        return _tokens_of(self._prompts(requests)) >= self.policy.prompt_batch_tokens

    def choose(self, requests: Collection[Request]) -> list[tuple[Row, int]]:
        """Streams with their owners (None = a prefix) and how many of their next tokens; empty = nothing waits.

        requests: by arrival.
        """
        writing, prompts = _writing(requests), self._prompts(requests)
        ends_one = _tokens_of(prompts[:1]) <= self.policy.prompt_batch_tokens
        # A step that only makes others wait, and ends no prompt for it, is a short one.
        is_wide = ends_one or not writing
        match self._turns.take(_tokens_of(writing), _tokens_of(prompts), ends_one=ends_one):
            case Turn.WRITING:
                prompts = []
            case Turn.PROMPTS:
                writing = []
        most = self.policy.prompt_batch_tokens if is_wide and not writing else self.policy.batch_tokens
        rows = writing + prompts
        wants = [stream.want(key) for key, (_, stream) in enumerate(rows)]
        budget = min(_tokens_of(rows), max(most, self._max_active))
        outputs = min(sum(len(want.outputs) for want in wants), budget)
        # Only those that write can take turns: a prompt that waits would wait for ever for a wider step.
        tokens = budget if prompts else self.policy.fitted(budget, outputs)
        slack = min(tokens // 4, self._most_rows - tokens) if prompts else 0
        batch = next_batch(wants, tokens=tokens, outputs=self._most_outputs, slack=slack)
        if prompts:
            self._is_shortest_first = not self._is_shortest_first
        for take in batch:
            owner, _ = rows[take.key]
            if owner is not None:
                self._served += 1
                owner.served_at = self._served
        return [(rows[take.key], take.count) for take in batch]

    def _prompts(self, requests: Collection[Request]) -> list[Row]:
        """Prefixes that requests wait for and prompts by arrival, but every other time the shortest first.

        So a long one does not hold up those behind it, nor they it for ever. Then prefixes to come.
        """
        awaited, to_come = ([(None, s) for s in self._prefixes.streams(awaited=flag)] for flag in (True, False))
        own = [(owner, s) for owner in requests if (s := owner.stream) is not None and owner.first_token_at is None]
        prompts: list[Row] = [*awaited, *own]
        if self._is_shortest_first:
            prompts.sort(key=lambda row: _tokens_of([row]))
        return [*prompts, *to_come]


def _writing(requests: Collection[Request]) -> list[Row]:
    """Those that write, and label branches."""
    found: list[Row] = []
    writing = [request for request in requests if request.first_token_at is not None]
    # Where a step does not take all of them, they take turns.
    for request in sorted(writing, key=lambda request: request.served_at):
        if request.stream is not None and not request.stream.is_done:
            found.append((request, request.stream))
        found += [(request, branch) for branch in request.branches]
    return found


def _tokens_of(rows: Sequence[Row]) -> int:
    """How many wait to be decoded."""
    return sum(len(stream.tokens) - stream.done for _, stream in rows)
