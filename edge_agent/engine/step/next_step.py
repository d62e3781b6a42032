"""Which tokens the next step decodes, of all that requests and prefixes wait for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edge_agent.engine.active_request import ActiveRequest
from edge_agent.engine.prompt.task_prefixes import TaskPrefixes
from edge_agent.engine.step.cache_sequence import CacheSequence
from edge_agent.engine.step.scheduler import Turn, Turns, Want, next_batch
from edge_agent.engine.step.step_policy import StepPolicy

# Each row of logits that was ever used holds 1.2 MB: where it is computed, and where it is read.
_MOST_OUTPUTS = 16
# From this many rows on flash attention works on tiles (GGML_FA_TILE_Q).
_WIDE_ROWS = 64
# Requests that write wait at most about this long for prompts that come between.
_STALL_S = 0.5


@dataclass(slots=True)
class StepPart:
    """The next `count` tokens of a sequence. owner: the request that it belongs to, None = a prefix."""

    owner: ActiveRequest | None
    sequence: CacheSequence
    count: int


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
        prompt_step_s = policy.seconds(policy.prompt_batch_tokens) or _STALL_S
        self._turns = Turns(_WIDE_ROWS, max(1, int(_STALL_S / prompt_step_s)))
        self._served = 0
        self._is_shortest_first = False

    def is_full(self, requests: Collection[ActiveRequest]) -> bool:
        """Whether the prompts alone fill a step."""
        return _tokens_of(self._prompts(requests)) >= self.policy.prompt_batch_tokens

    def choose(self, requests: Collection[ActiveRequest]) -> list[StepPart]:
        """The parts of the next step; none = nothing waits. requests: by arrival."""
        writing, prompts = _writing(requests), self._prompts(requests)
        ends_one = _tokens_of(prompts[:1]) <= self.policy.prompt_batch_tokens
        # A step that makes others wait and completes no prompt is a short one.
        may_be_wide = ends_one or not writing
        match self._turns.next(_tokens_of(writing), _tokens_of(prompts), ends_one=ends_one):
            case Turn.WRITING:
                prompts = []
            case Turn.PROMPTS:
                writing = []
        most = self.policy.prompt_batch_tokens if may_be_wide and not writing else self.policy.batch_tokens
        parts = writing + prompts
        budget = min(_tokens_of(parts), max(most, self._max_active))
        # Only requests that write take turns: a prompt would wait forever for a wider step.
        tokens = budget if prompts else self.policy.fitted(budget)
        slack = min(tokens // 4, self._most_rows - tokens) if prompts else 0
        wants = [Want(at, part.count, part.sequence.waiting_outputs) for at, part in enumerate(parts)]
        chosen = next_batch(wants, tokens=tokens, outputs=self._most_outputs, slack=slack)
        if prompts:
            self._is_shortest_first = not self._is_shortest_first
        return [self._serve(parts[take.key], take.count) for take in chosen]

    def _serve(self, part: StepPart, count: int) -> StepPart:
        if part.owner is not None:
            self._served += 1
            part.owner.served_at = self._served
        part.count = count
        return part

    def _prompts(self, requests: Collection[ActiveRequest]) -> list[StepPart]:
        """Prefixes that requests wait for and prompts by arrival, every other time the shortest first; other prefixes.

        So a long prompt does not hold up those behind it, and they do not hold it up forever.
        """
        prompts = [_part(None, sequence) for sequence in self._prefixes.decoding(awaited=True)]
        prompts += [
            _part(request, request.sequence)
            for request in requests
            if request.sequence is not None and request.first_token_at is None
        ]
        if self._is_shortest_first:
            prompts.sort(key=lambda part: part.count)
        return prompts + [_part(None, sequence) for sequence in self._prefixes.decoding(awaited=False)]


def _writing(requests: Collection[ActiveRequest]) -> list[StepPart]:
    """Requests that write and label branches, those that waited longest first."""
    found: list[StepPart] = []
    writing = [request for request in requests if request.first_token_at is not None]
    for request in sorted(writing, key=lambda request: request.served_at):
        if request.sequence is not None and request.sequence.waiting:
            found.append(_part(request, request.sequence))
        found += [_part(request, branch) for branch in request.branches]
    return found


def _part(owner: ActiveRequest | None, sequence: CacheSequence) -> StepPart:
    return StepPart(owner, sequence, sequence.waiting)


def _tokens_of(parts: Sequence[StepPart]) -> int:
    return sum(part.count for part in parts)
