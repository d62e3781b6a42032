"""The loop of an engine's thread: commands from a queue, and steps of the engine in between."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

from edge_agent.core import pipe
from edge_agent.engine.engine import Engine

_IDLE_S = 1.0

CommandQueue = queue.SimpleQueue[pipe.Command]


def serve(
    engine: Engine,
    commands: CommandQueue,
    emit: Callable[[pipe.Event], object],
    *,
    on_command: Callable[[pipe.Command], object] = lambda _: None,
    on_turn: Callable[[], float] = lambda: _IDLE_S,
) -> None:
    """Takes turns of a wait for commands and, if there is work, a step. Never returns.

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
