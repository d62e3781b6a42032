"""What the engine asks of an answer, whatever its plan: which tokens to decode for it, and what their logits mean."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.core.pipe import Finish
from edge_agent.engine.step.cache_sequence import CacheSequence


class InvalidOutputError(Exception):
    """What the model wrote is no answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens behind a prompt. Logits are wanted after those at the offsets `outputs`; -1 is the prompt's last token."""

    tokens: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


class Answer(ABC):
    """The answer to one request as it grows."""

    finish: Finish | None = None  # How it ended; None while it goes on.
    completion_tokens = 0
    branches: Sequence[Continuation] = ()  # What is decoded in sequences of their own once the prompt is.

    def draft(self) -> Continuation:
        """What is decoded with the prompt: the decided beginning of the answer, and what is guessed behind it."""
        return Continuation(outputs=(-1,))

    @abstractmethod
    def max_cells(self, parallel_branches: int) -> int:
        """The most KV cells that it needs behind the prompt."""

    @abstractmethod
    def read(self, sequence: CacheSequence, rows: Sequence[int]) -> None:
        """Reads the logits in these rows of the last batch, which belong to the next outputs of the sequence.

        Raises NumericError, or InvalidOutputError where nothing can follow.
        """

    def take_delta(self) -> str:
        """The text since the last call."""
        return ""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """The fields of Finished that hold it, once it has ended. Raises InvalidOutputError."""
