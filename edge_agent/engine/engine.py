"""What the worker needs from an engine: the model's, or the echo that stands in for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_agent.engine.protocol import Event, Progress, Run, TaskPrefix


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What Ready tells about an engine."""

    context_tokens: int
    max_active: int
    threads: int
    prefill_threads: int
    batch_tokens: int
    vocabulary: int
    cpu_variant: str
    repacked_mb: float | None


class Engine(Protocol):
    """Answers requests step by step. Used by one thread; nothing blocks longer than one step.

    Every request that `add` took ends in exactly one Finished, Refused, Failed or Cancelled, given by whichever call
    ended it.
    """

    @property
    def facts(self) -> EngineFacts: ...

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        ...

    def set_tasks(self, tasks: tuple[TaskPrefix, ...]) -> None:
        """These tasks' prefixes are shared from now on; they are decoded by the next steps."""
        ...

    def add(self, run: Run) -> Event | None:
        """Take a request; gives its end if it has none to wait for. Raises ValueError for an id that is in use."""
        ...

    def cancel(self, request_id: int) -> Event | None:
        """Cancelled, or None for an id that is not in use."""
        ...

    def step(self) -> list[Event]:
        """One pass of the model over what waits."""
        ...

    def progress(self) -> Progress: ...

    def close(self) -> None: ...
