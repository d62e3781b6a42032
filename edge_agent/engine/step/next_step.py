"""Which tokens the next step decodes, of all that requests wait for.

This is continuous batching (Orca, OSDI 2022): requests join and leave between any two steps. With chunked prefill
(Sarathi-Serve, OSDI 2024), a long prompt never stops requests that already write.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edge_agent.engine.active_request import ActiveRequest
from edge_agent.engine.step.cache_sequence import CacheSequence
from edge_agent.engine.step.step_policy import StepPolicy

# Each row of logits that was ever used holds 1.2 MB: where it is computed, and where it is read.
_MOST_OUTPUTS = 16


@dataclass(slots=True)
class StepPart:
    """The next `count` tokens of a request's sequence."""

    owner: ActiveRequest
    sequence: CacheSequence
    count: int


class NextStep:
    """Chooses step after step. All requests that write are in each, prompts fill the rest.

    most_rows, most_outputs: what the context has room for in one step.
    """

    def __init__(self, policy: StepPolicy, *, max_active: int, most_rows: int, most_outputs: int) -> None:
        self.policy = policy
        self._max_active = max_active
        self._most_rows = most_rows
        self._most_outputs = min(most_outputs, max(_MOST_OUTPUTS, max_active))
        self._is_shortest_first = False

    def is_full(self, requests: Collection[ActiveRequest]) -> bool:
        """Whether the prompts alone fill a step."""
        return _tokens_of(self._prompts(requests)) >= self.policy.prompt_batch_tokens

    def choose(self, requests: Collection[ActiveRequest]) -> list[StepPart]:
        """The parts of the next step; none = nothing waits. requests: by arrival."""
        writing, prompts = _writing(requests), self._prompts(requests)
        most = self.policy.batch_tokens if writing else self.policy.prompt_batch_tokens
        parts = writing + prompts
        tokens = min(_tokens_of(parts), max(most, self._max_active))
        slack = min(tokens // 4, self._most_rows - tokens) if prompts else 0
        if prompts:
            self._is_shortest_first = not self._is_shortest_first
        return next_batch(parts, tokens=tokens, outputs=self._most_outputs, slack=slack)

    def _prompts(self, requests: Collection[ActiveRequest]) -> list[StepPart]:
        """By arrival, every other time the shortest first.

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

    slack: how far the last part may exceed the budget of tokens: a small rest should not cost a step of its own.
    """
    batch = []
    for part in parts:
        if part is not parts[-1] or part.count > tokens + slack:
            part.count = min(part.count, tokens)
        wanted = [offset for offset in part.sequence.waiting_outputs if offset < part.count]
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
    found: list[StepPart] = []
    for request in requests:
        if request.first_token_at is not None and request.sequence is not None:
            sequences = [request.sequence, *request.branches] if request.sequence.waiting else request.branches
            found += [_part(request, sequence) for sequence in sequences]
    return found


def _part(owner: ActiveRequest, sequence: CacheSequence) -> StepPart:
    return StepPart(owner, sequence, sequence.waiting)


def _tokens_of(parts: Sequence[StepPart]) -> int:
    return sum(part.count for part in parts)
