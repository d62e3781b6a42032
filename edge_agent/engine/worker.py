"""The worker process: commands on standard input, events on standard output, steps of the engine in between."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

from pydantic import ValidationError

from edge_agent.core import pipe
from edge_agent.core.environment import return_freed_memory
from edge_agent.engine.echo import EchoEngine
from edge_agent.engine.engine import Engine
from edge_agent.engine.priors import PriorMeasurer

log = logging.getLogger(__name__)

CommandQueue = queue.SimpleQueue[pipe.Command]

_PROGRESS_S = 1.0
# The worker holds the most memory and can be restarted, so the kernel should end it first.
_OOM_SCORE_ADJUST = 500


def main() -> int:
    """Serve until standard input ends (0), or the model cannot be opened or is lost (1)."""
    # Ctrl-C and a service manager's stop reach the whole group. The agent drains first, then ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Libraries that print must not corrupt the events: descriptor 1 becomes the log.
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _raise_oom_score()
    commands: CommandQueue = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, commands), name="engine-commands", daemon=True).start()
    try:
        return _run(commands, lambda event: _write(events, event))
    except BrokenPipeError:
        return 0
    except Exception:
        log.exception("the engine failed")
        return 1


def _read(source: BinaryIO, commands: CommandQueue) -> None:
    """Reads until the input ends, then ends the process at once: nothing in memory is worth keeping."""
    returncode = 1
    try:
        for line in source:
            commands.put(pipe.decode_command(line))
        returncode = 0
    except ValidationError:
        log.exception("not a command")
    finally:
        # Also on a MemoryError: a worker that reads no commands is useless.
        os._exit(returncode)


def _run(commands: CommandQueue, emit: Callable[[pipe.Event], None]) -> int:
    load = commands.get()
    if not isinstance(load, pipe.Load):
        log.error("the first command must be load, not %s", load.type)
        return 1
    began = perf_counter()
    try:
        engine = _open_engine(load, _loading_reporter(emit))
    except Exception as error:
        log.exception("model %r cannot be opened", load.model_path)
        emit(pipe.LoadFailed(message=str(error) or type(error).__name__))
        return 1
    return_freed_memory()
    priors = PriorMeasurer(load)
    emit(priors.measure(engine, load.tasks, emit))
    emit(engine.ready(load_s=perf_counter() - began))
    _serve(engine, priors, commands, emit)
    return 0


def _loading_reporter(emit: Callable[[pipe.Event], None]) -> Callable[[], None]:
    """Gives a function to call after each part of a load; it emits a Loading once a second.

    No part may take nearly LOAD_SILENCE_S.
    """
    due_at = 0.0

    def on_progress() -> None:
        nonlocal due_at
        if (now := perf_counter()) >= due_at:
            due_at = now + _PROGRESS_S
            emit(pipe.Loading())

    return on_progress


def _open_engine(load: pipe.Load, on_progress: Callable[[], None]) -> Engine:
    if pipe.is_echo(load.model_path):
        return EchoEngine(load, on_progress)
    # The echo engine must work where the native library is missing or does not fit the CPU.
    from edge_agent.engine.llama_engine import LlamaEngine  # noqa: PLC0415

    return LlamaEngine(load, on_progress)


def _serve(engine: Engine, priors: PriorMeasurer, commands: CommandQueue, emit: Callable[[pipe.Event], None]) -> None:
    reported_at = perf_counter()
    while True:
        # Requests that come while others are prepared share the step.
        for timeout_s in (engine.linger_s if engine.has_work else _PROGRESS_S, 0.0):
            for command in _waiting(commands, timeout_s):
                if (event := _execute(engine, command)) is not None:
                    emit(event)
                if isinstance(command, pipe.SetTasks):
                    emit(priors.measure(engine, command.tasks, emit))
        was_busy = engine.has_work
        if was_busy and not engine.linger_s:
            for event in engine.step():
                emit(event)
        now = perf_counter()
        if now - reported_at >= _PROGRESS_S or (was_busy and not engine.has_work):
            emit(engine.progress())
            reported_at = now


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
    if isinstance(command, pipe.Run):
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


def _write(events: BinaryIO, event: pipe.Event) -> None:
    events.write(pipe.encode_event(event))
    events.flush()


def _raise_oom_score() -> None:
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(max(int(path.read_text()), _OOM_SCORE_ADJUST)), encoding="ascii")
    except OSError:
        log.debug("no oom_score_adj here", exc_info=True)


if __name__ == "__main__":
    returncode = main()
    sys.stderr.flush()
    # An orderly shutdown of the interpreter aborts while the other thread reads standard input.
    os._exit(returncode)
