"""What the worker needs from an engine, the model's own or the echo engine, and the loop of an engine's thread."""

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from edge_agent.core import pipe
from edge_agent.core.codes import Code

_IDLE_S = 1.0

CommandQueue = queue.SimpleQueue[pipe.Command]


class Engine(Protocol):
    """Answers requests step by step. Used by one thread; no call blocks longer than one step.

    Every request that `add` accepted ends in exactly one Finished, Failed or Cancelled. The call that ends it
    returns this event.
    """

    def ready(self, load_s: float) -> pipe.Ready:
        """The engine's sizes and speeds, after a load that took `load_s`."""

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""

    @property
    def has_priors(self) -> bool:
        """Whether the model may prefer a label where an input says nothing; one trained for its labels does not."""
        return True

    @property
    def linger_s(self) -> float:
        """How long the next step should wait for requests that are about to come; 0 if not at all."""
        return 0.0

    def set_tasks(self, tasks: tuple[pipe.TaskPrefix, ...]) -> None:
        """Shares these tasks' prefixes from now on; the next steps decode them."""

    def set_limits(self, limits: pipe.SetLimits) -> None:
        """Applies from the next step on."""

    def add(self, engine_request: pipe.EngineRequest) -> pipe.Event | None:
        """Accepts a request, or returns its end. Raises ValueError for an id that is in use."""

    def cancel(self, request_id: int) -> pipe.Event | None:
        """Returns a Cancelled, or None for an id that is not in use."""

    def step(self) -> list[pipe.Event]:
        """One pass of the model over what waits."""

    def progress(self) -> pipe.Progress: ...


@dataclass(slots=True, kw_only=True, eq=False)
class MeasuredRequest:
    """A request with what every engine measures of it, as Finished has it."""

    engine_request: pipe.EngineRequest
    prompt_tokens: int
    cached_tokens: int = 0
    started_at: float | None = None
    first_token_at: float | None = None  # In seconds of the monotonic clock.
    engine_time_s: float = 0.0
    batch: int = 0

    def finished(self, finish: pipe.Finish, **answer: Any) -> pipe.Finished:
        """The end of the request, with the fields of Finished that were not measured."""
        assert self.started_at is not None
        assert self.first_token_at is not None
        return pipe.Finished(
            id=self.engine_request.id,
            finish=finish,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            started_at=self.started_at,
            prefill_ms=(self.first_token_at - self.started_at) * 1000,
            decode_ms=(monotonic() - self.first_token_at) * 1000,
            engine_time_s=self.engine_time_s,
            batch=self.batch,
            **answer,
        )


def count_start(totals: pipe.Progress, cached_tokens: int) -> None:
    """A request starts with this many tokens of a task's prefix."""
    totals.prompt_tokens_total += cached_tokens
    totals.cached_tokens_total += cached_tokens


def count_step(totals: pipe.Progress, *, requests: int, tokens: int, elapsed_s: float, has_prefill: bool) -> None:
    """Counts a step of so many requests. `tokens` are those that it decoded, without idle rows."""
    totals.steps_total += 1
    totals.rows_total += requests
    if has_prefill:
        totals.prefill_s += elapsed_s
    else:
        totals.decode_s += elapsed_s
        totals.decoded_tokens_total += tokens


def too_long(engine_request: pipe.EngineRequest, prompt: int, extra: int, context: int) -> pipe.Failed:
    """The refusal of a request whose prompt and answer never fit the context; all numbers are tokens."""
    what = "max_tokens" if engine_request.max_tokens else "label tokens"
    asked = f"a prompt of {prompt} tokens" + (f" and {what} {extra}" if extra else "")
    return pipe.Failed(id=engine_request.id, code=Code.TOO_LONG, message=f"input: {asked}; the context has {context}")


def serve(
    engine: Engine,
    commands: CommandQueue,
    emit: Callable[[pipe.Event], object],
    *,
    on_command: Callable[[pipe.Command], object] = lambda _: None,
    on_turn: Callable[[], float] = lambda: _IDLE_S,
) -> None:
    """Alternates between waiting for commands and, if there is work, a step. Never returns.

    `on_turn` says how many seconds the next turn may wait while there is no work.
    """
    idle_s = _IDLE_S
    while True:
        # Requests that come while others are prepared share the step.
        for timeout_s in (engine.linger_s if engine.has_work else idle_s, 0.0):
            for command in _waiting(commands, timeout_s):
                if (event := _execute(engine, command)) is not None:
                    emit(event)
                on_command(command)
        if engine.has_work and not engine.linger_s:
            for event in engine.step():
                emit(event)
        idle_s = on_turn()


def _waiting(commands: CommandQueue, timeout_s: float) -> Iterator[pipe.Command]:
    """All commands that are there; waits up to `timeout_s` for the first one."""
    try:
        if timeout_s:
            yield commands.get(timeout=timeout_s)
        for _ in range(commands.qsize()):
            yield commands.get_nowait()
    except queue.Empty:
        return


def _execute(engine: Engine, command: pipe.Command) -> pipe.Event | None:
    if isinstance(command, pipe.EngineRequest):
        return engine.add(command)
    if isinstance(command, pipe.Cancel):
        return engine.cancel(command.id)
    if isinstance(command, pipe.SetTasks):
        engine.set_tasks(command.tasks)
    elif isinstance(command, pipe.SetLimits):
        engine.set_limits(command)
    else:
        raise TypeError("load is only allowed as the first command")
    return None
