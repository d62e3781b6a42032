"""What the engine asks of a model's prompts: of a chat, or of the fields that a trained model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.core.pipe import Run, TaskPrefix


@dataclass(frozen=True, slots=True)
class Unlikeness:
    """What says that an input is unlike training; None = nothing.

    texts: by how much their strangeness exceeds its limit. token: the one in place of labels; most_log_odds: its limit.
    """

    texts: float | None = None
    token: int | None = None
    most_log_odds: float = 0.0


class Prompts(Protocol):
    """Belongs to one model.

    is_reasoning: the model thinks before it answers. is_timeless: the same request always has the same prompt.
    has_priors: the model may prefer a label where an input says nothing; one that is trained for its labels does not.
    """

    @property
    def is_reasoning(self) -> bool: ...

    @property
    def is_timeless(self) -> bool: ...

    @property
    def has_priors(self) -> bool: ...

    def prompt(self, run: Run, *, thinks: bool) -> tuple[list[int], bool]:
        """Tokens of the prompt, and whether it ends inside a thought that the template opened.

        thinks: False = the thought is closed at once. Raises ChatError or Refusal for what the model does not take.
        """

    def unlikeness(self, task: str, prompt: Sequence[int]) -> Unlikeness:
        """How to notice that an input is unlike the model's training."""

    def prefix(self, task: TaskPrefix) -> list[int]:
        """Tokens that all prompts of a task begin with; the last one may differ where the text continues."""
