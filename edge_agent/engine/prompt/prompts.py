"""What the engine asks of a model's prompts: of a chat, or of the fields that a trained model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_agent.core.pipe import EngineRequest, TaskPrefix


@dataclass(frozen=True, slots=True)
class OutOfDistribution:
    """How to notice that an input is unlike the model's training."""

    text_excess: float | None = None  # By how much the strangeness of its texts exceeds its limit; None = it has none.
    token: int | None = None  # The token that the model prefers to all labels then; None = it was trained without one.
    max_log_odds: float = 0.0  # The log-odds of that token against the labels, above which it counts.


class Prompts(Protocol):
    """Belongs to one model."""

    @property
    def is_reasoning(self) -> bool:
        """The model thinks before it answers."""

    @property
    def is_timeless(self) -> bool:
        """The same request always has the same prompt."""

    @property
    def has_priors(self) -> bool:
        """The model may prefer a label where an input says nothing; one that is trained for its labels does not."""

    def prompt(self, run: EngineRequest, *, thinks: bool) -> tuple[list[int], bool]:
        """Tokens of the prompt, and whether it ends inside a thought that the template opened.

        Unless it `thinks`, the thought is closed at once. Raises ChatError or Refusal for what the model does not take.
        """

    def out_of_distribution(self, task: str, prompt: Sequence[int]) -> OutOfDistribution: ...

    def prefix(self, task: TaskPrefix) -> list[int]:
        """Tokens that all prompts of a task begin with; the last one may differ where the text continues."""
