"""One sequence of the KV cache, with the tokens that it holds and those that it waits for."""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.engine.llama import Piece, common_length


@dataclass(slots=True, eq=False)
class CacheSequence:
    seq_id: int
    tokens: list[int]  # Those behind the output that is read next are only guessed.
    outputs: tuple[int, ...] = ()  # The indices of the tokens after which logits are wanted.
    decoded: int = 0  # How many of the tokens are in the cache.
    prompt_length: int = 0
    is_branch: bool = False
    outputs_read: int = 0

    @property
    def pending(self) -> int:
        """The number of tokens to decode."""
        return len(self.tokens) - self.decoded

    @property
    def pending_outputs(self) -> list[int]:
        """Offsets of the outputs among the tokens to decode."""
        return [index - self.decoded for index in self.outputs if index >= self.decoded]

    @property
    def path(self) -> tuple[int, ...]:
        """The tokens between the prompt and the logits that are read next."""
        return tuple(self.tokens[self.prompt_length : self.outputs[self.outputs_read] + 1])

    def piece(self, count: int) -> Piece:
        outputs = [offset for offset in self.pending_outputs if offset < count]
        return Piece(self.seq_id, self.decoded, self.tokens[self.decoded : self.decoded + count], outputs)

    def continue_with(self, following: Sequence[int]) -> bool:
        """Sets what follows the output that is read next. True if logits after it are there or wanted already.

        False if guessed tokens are dropped. The cache may then hold more than `decoded`, and is to be cut.
        """
        start = self.outputs[self.outputs_read] + 1
        end = start + len(following)
        self.outputs_read += 1
        next_output = self.outputs[self.outputs_read : self.outputs_read + 1]
        if self.tokens[start:end] == list(following) and next_output == (end - 1,):
            return True
        same = common_length(self.tokens[start:], following)
        self.tokens[start:] = following
        # There are logits only for tokens that are decoded now.
        self.decoded = min(self.decoded, start + same, end - 1)
        self.outputs, self.outputs_read = (end - 1,), 0
        return False
