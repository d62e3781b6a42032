"""What the engine keeps of a request from its arrival to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_agent.core.protocol import Run
from edge_agent.engine.answer.answer_guess import Draft
from edge_agent.engine.answer.json_answer import JsonAnswer
from edge_agent.engine.answer.labels import Branch, LabelAnswer
from edge_agent.engine.answer.text_answer import TextAnswer
from edge_agent.engine.prompt.task_prefixes import Prefix
from edge_agent.engine.step.cache_sequence import CacheSequence


@dataclass(slots=True, eq=False)
class ActiveRequest:
    """One Run with the tokens of its prompt and the answer so far.

    sequence: its place in the cache, None while it waits.
    prefix: the one that it shares cells with.
    branches: label branches that are decoded; branches_left: those that wait for a sequence id.
    started_at, first_token_at: seconds of the monotonic clock.
    share_s, batch: as in Finished.
    served_at: the number of its latest turn among those of all requests; the lowest has waited longest.
    """

    run: Run
    prompt: list[int]
    answer: LabelAnswer | JsonAnswer | TextAnswer
    sequence: CacheSequence | None = None
    prefix: Prefix | None = None
    cached_tokens: int = 0
    branches: list[CacheSequence] = field(default_factory=list)
    branches_left: list[Branch] = field(default_factory=list)
    started_at: float | None = None
    first_token_at: float | None = None
    share_s: float = 0.0
    batch: int = 0
    served_at: int = 0

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets the model's logits; the answer's decided tokens are decoded again with the prompt."""
        self.first_token_at = None
        if isinstance(self.answer, LabelAnswer):
            self.branches_left = list(self.answer.tree.branches)

    def start(self, seq_id: int, shared: int) -> CacheSequence:
        """Places it in a sequence that holds `shared` tokens of its prompt already.

        Behind the prompt stand the decided tokens of the answer, and the guessed ones.
        """
        draft = self.answer.draft() if isinstance(self.answer, JsonAnswer) else Draft(decisions=(-1,))
        outputs = tuple(len(self.prompt) + at for at in draft.decisions)
        self.sequence = CacheSequence(seq_id, [*self.prompt, *draft.tokens], outputs, shared)
        self.cached_tokens = shared
        return self.sequence

    def start_branch(self, seq_id: int) -> CacheSequence:
        """Places the next label branch in a sequence that holds the prompt already."""
        branch, length = self.branches_left.pop(), len(self.prompt)
        outputs = tuple(length + index for index in branch.outputs)
        sequence = CacheSequence(seq_id, [*self.prompt, *branch.tokens], outputs, length, branch)
        self.branches.append(sequence)
        return sequence

    def extra_cells(self, parallel_branches: int) -> int:
        """KV cells that it needs at most beyond those of its prompt."""
        if not isinstance(self.answer, LabelAnswer):
            return self.run.max_tokens
        lengths = sorted((len(branch.tokens) for branch in self.answer.tree.branches), reverse=True)
        return sum(lengths[:parallel_branches])
