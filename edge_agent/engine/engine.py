"""What the worker needs from an engine: the model's own, or the echo engine in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_agent.core.messages import Code
from edge_agent.core.protocol import (
    Event,
    Failed,
    LabelsPlan,
    Progress,
    Ready,
    Run,
    SetLimits,
    TaskPrefix,
)


class Engine(Protocol):
    """Answers requests step by step. Used by one thread; no call blocks longer than one step.

    Every request that `add` accepted ends in exactly one Finished, Failed or Cancelled, which the call that
    ends it returns.
    """

    def ready(self, load_s: float) -> Ready:
        """The engine's sizes and speeds. load_s: how long its load took."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        ...

    @property
    def linger_s(self) -> float:
        """How long the next step should wait for requests that are about to come; 0 = not at all."""
        ...

    def set_tasks(self, tasks: tuple[TaskPrefix, ...]) -> None:
        """Shares these tasks' prefixes from now on; the next steps decode them."""
        ...

    def set_limits(self, limits: SetLimits) -> None:
        """Applies from the next step on."""
        ...

    def add(self, run: Run) -> Event | None:
        """Accepts a request, or returns its end. Raises ValueError for an id that is in use."""
        ...

    def cancel(self, request_id: int) -> Event | None:
        """Cancelled, or None for an id that is not in use."""
        ...

    def interrupt(self, request_id: int) -> None:
        """From another thread, before `cancel`: a step for this request alone may end early."""
        ...

    def step(self) -> list[Event]:
        """One pass of the model over what waits."""
        ...

    def progress(self) -> Progress: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Totals:
    """Counts since the engine's start; see Progress."""

    steps: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decoded_tokens: int = 0

    def count_start(self, cached_tokens: int) -> None:
        """A request starts with this many tokens of a task's prefix."""
        self.prompt_tokens += cached_tokens
        self.cached_tokens += cached_tokens

    def count_step(self, *, rows: int, tokens: int, elapsed_s: float, has_prefill: bool) -> None:
        """rows: requests in the step; tokens: of all of them, without idle rows."""
        self.steps += 1
        self.rows += rows
        if has_prefill:
            self.prefill_s += elapsed_s
        else:
            self.decode_s += elapsed_s
            self.decoded_tokens += tokens

    def progress(self, active: int) -> Progress:
        return Progress(
            active=active,
            steps_total=self.steps,
            rows_total=self.rows,
            prompt_tokens_total=self.prompt_tokens,
            cached_tokens_total=self.cached_tokens,
            completion_tokens_total=self.completion_tokens,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            decoded_tokens_total=self.decoded_tokens,
        )


def too_long(run: Run, prompt: int, extra: int, context: int) -> Failed:
    """The refusal of a request whose prompt and answer never fit the context; all numbers are tokens."""
    what = "label tokens" if isinstance(run.plan, LabelsPlan) else "max_tokens"
    asked = f"a prompt of {prompt} tokens" + (f" and {what} {extra}" if extra else "")
    return Failed(id=run.id, code=Code.TOO_LONG, message=f"input: {asked}; the context has {context}")
