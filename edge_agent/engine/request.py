"""What the engine keeps of a request while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent.core.protocol import Run
from edge_agent.engine.answer.answer_guess import Draft, common_beginning
from edge_agent.engine.answer.answers import LabelAnswer, TextAnswer
from edge_agent.engine.answer.json_answer import JsonAnswer
from edge_agent.engine.answer.labels import Branch
from edge_agent.engine.llama import Piece
from edge_agent.engine.prompt.prefix_cache import Prefix
from edge_agent.engine.step.scheduler import Want


@dataclass(slots=True, eq=False)
class Stream:
    """Tokens of one sequence: `done` of them are in the cache; logits are wanted after those at `outputs`.

    branch, prefix: what it decodes, where it is not a request's own prompt and answer.
    read: of `outputs`, how many have been read; tokens behind the one that is read next are only guessed.
    """

    seq_id: int
    tokens: list[int]
    outputs: tuple[int, ...] = ()
    done: int = 0
    branch: Branch | None = None
    prefix: Prefix | None = None
    read: int = 0

    @property
    def is_done(self) -> bool:
        return self.done == len(self.tokens)

    def want(self, key: int) -> Want:
        """What it waits to have decoded."""
        ahead = tuple(index - self.done for index in self.outputs if index >= self.done)
        return Want(key, len(self.tokens) - self.done, ahead)

    def piece(self, count: int) -> Piece:
        """Its next `count` tokens."""
        end = self.done + count
        inside = [index - self.done for index in self.outputs if self.done <= index < end]
        return Piece(self.seq_id, self.done, self.tokens[self.done : end], inside)

    def decide(self, following: Sequence[int]) -> bool:
        """These tokens follow the output that is read next. Whether logits after the last of them are there or wanted.

        If not, what was guessed is dropped: then `done` may be less than the cache holds, which is to be cut.
        """
        start = self.outputs[self.read] + 1
        end = start + len(following)
        self.read += 1
        if self.tokens[start:end] == list(following) and self.outputs[self.read : self.read + 1] == (end - 1,):
            return True
        same = len(common_beginning(self.tokens[start:], following))
        self.tokens[start:] = following
        # Logits are only to be had of what is decoded now.
        self.done = min(self.done, start + same, end - 1)
        self.outputs, self.read = (end - 1,), 0
        return False


@dataclass(slots=True, eq=False)
class Request:
    """One Run with its prompt's tokens and the answer that forms.

    stream: its place in the context, None while it waits; prefix: the task's one that it shares.
    branches: label branches that run now; branches_left: those that wait for a sequence id.
    Times in seconds of the monotonic clock; share_s and batch as in Finished.
    served_at: a count of rows of all requests when it last had one: who has the lowest has waited longest.
    """

    run: Run
    prompt: list[int]
    answer: LabelAnswer | JsonAnswer | TextAnswer
    stream: Stream | None = None
    prefix: Prefix | None = None
    cached_tokens: int = 0
    branches: list[Stream] = field(default_factory=list)
    branches_left: list[Branch] = field(default_factory=list)
    started_at: float | None = None
    first_token_at: float | None = None
    share_s: float = 0.0
    batch: int = 0
    served_at: int = 0

    def __post_init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what the model said so far; only before anything was written."""
        self.first_token_at = None
        if isinstance(self.answer, LabelAnswer):
            self.branches_left = list(self.answer.tree.branches)

    def start(self, seq_id: int, shared: int) -> Stream:
        """Its place in the context, where `shared` tokens of its prompt are already; behind the prompt stands what is
        decided of the answer, and what is guessed."""
        draft = self.answer.draft() if isinstance(self.answer, JsonAnswer) else Draft(decisions=(-1,))
        outputs = tuple(len(self.prompt) + at for at in draft.decisions)
        return Stream(seq_id, [*self.prompt, *draft.tokens], outputs, shared)

    def extra_cells(self, parallel_branches: int) -> int:
        """KV cells needed at worst beyond the prompt's, with this many label branches at once."""
        if not isinstance(self.answer, LabelAnswer):
            return self.run.max_tokens
        lengths = sorted((len(branch.tokens) for branch in self.answer.tree.branches), reverse=True)
        return sum(lengths[:parallel_branches])
