"""The worker process: commands on standard input, events on standard output, steps of the engine in between."""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

from pydantic import ValidationError

from edge_agent.core.environment import return_freed_memory
from edge_agent.core.load_progress import LoadProgress
from edge_agent.core.protocol import (
    Cancel,
    Command,
    Event,
    Load,
    LoadFailed,
    Run,
    SetLimits,
    SetTasks,
    decode_command,
    encode_event,
)
from edge_agent.engine.echo import SCHEME, EchoEngine
from edge_agent.engine.engine import Engine

log = logging.getLogger(__name__)

_PROGRESS_S = 1.0
# The worker holds the most memory and can be restarted, so the kernel should end it first.
_OOM_SCORE_ADJUST = 500
_PR_SET_NAME = 15  # linux/prctl.h


def main() -> int:
    """Serve until standard input ends (0), or the model cannot be opened or is lost (1)."""
    # Ctrl-C and a service manager's stop reach the whole group, but the agent drains first and then ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Libraries that print must not corrupt the events: descriptor 1 becomes the log.
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _raise_oom_score()
    _name_thread("engine-steps")
    commands = _Commands()
    threading.Thread(target=commands.read, args=(sys.stdin.buffer,), name="engine-commands", daemon=True).start()
    try:
        return _run(commands, lambda event: _write(events, event))
    except BrokenPipeError:
        return 0
    except Exception:
        log.exception("the engine failed")
        return 1


class _Commands:
    """The agent's commands. A thread of its own reads them, so that a cancel can end the running step."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._engine: Engine | None = None

    def interrupt(self, engine: Engine) -> None:
        """A cancel interrupts this engine from now on."""
        self._engine = engine

    def get(self) -> Command:
        """The next command; waits for it."""
        return self._queue.get()

    def waiting(self, *, timeout_s: float) -> list[Command]:
        """All commands that are there; waits up to `timeout_s` for the first one."""
        found: list[Command] = []
        try:
            if timeout_s:
                found.append(self._queue.get(timeout=timeout_s))
            while True:
                found.append(self._queue.get_nowait())
        except queue.Empty:
            return found

    def read(self, source: BinaryIO) -> None:
        """Reads until the input ends, then ends the process at once: nothing in memory is worth keeping."""
        _name_thread("engine-commands")
        returncode = 1
        try:
            for line in source:
                command = decode_command(line)
                self._queue.put(command)
                if isinstance(command, Cancel) and self._engine is not None:
                    self._engine.interrupt(command.id)
            returncode = 0
        except ValidationError:
            log.exception("not a command")
        finally:
            # Also on a MemoryError: a worker that reads no commands is useless.
            os._exit(returncode)


def _run(commands: _Commands, emit: Callable[[Event], None]) -> int:
    load = commands.get()
    if not isinstance(load, Load):
        log.error("the first command must be load, not %s", load.type)
        return 1
    began = perf_counter()
    try:
        with LoadProgress(emit) as progress:
            engine = _open_engine(load, progress)
    except Exception as error:
        log.exception("model %r cannot be opened", load.model_path)
        emit(LoadFailed(message=str(error) or type(error).__name__))
        return 1
    return_freed_memory()
    commands.interrupt(engine)
    emit(engine.ready(load_s=perf_counter() - began))
    _serve(engine, commands, emit)
    return 0


def _open_engine(load: Load, progress: LoadProgress) -> Engine:
    if load.model_path.startswith(SCHEME):
        return EchoEngine(load, progress.advance)
    # The echo engine must work where the native library is missing or does not fit the CPU.
    from edge_agent.engine.llama_engine import LlamaEngine  # noqa: PLC0415

    # Measuring is worth it only where the result is kept.
    return LlamaEngine(load, is_measured=load.state_dir is not None, progress=progress)


def _serve(engine: Engine, commands: _Commands, emit: Callable[[Event], None]) -> None:
    reported_at = perf_counter()
    while True:
        # Requests that come while others are prepared share the step. Twice only: commands may never stop coming.
        for timeout_s in (engine.linger_s if engine.has_work else _PROGRESS_S, 0.0):
            for command in commands.waiting(timeout_s=timeout_s):
                for event in _execute(engine, command):
                    emit(event)
        was_busy = engine.has_work
        if was_busy and not engine.linger_s:
            for event in engine.step():
                emit(event)
        now = perf_counter()
        if now - reported_at >= _PROGRESS_S or (was_busy and not engine.has_work):
            emit(engine.progress())
            reported_at = now


def _execute(engine: Engine, command: Command) -> list[Event]:
    event: Event | None = None
    if isinstance(command, Run):
        event = engine.add(command)
    elif isinstance(command, Cancel):
        event = engine.cancel(command.id)
    elif isinstance(command, SetTasks):
        engine.set_tasks(command.tasks)
    elif isinstance(command, SetLimits):
        engine.set_limits(command)
    else:
        raise TypeError("load is only allowed as the first command")
    return [] if event is None else [event]


def _write(events: BinaryIO, event: Event) -> None:
    data = memoryview(encode_event(event))
    while data:
        data = data[events.write(data) :]


def _raise_oom_score() -> None:
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(max(int(path.read_text()), _OOM_SCORE_ADJUST)), encoding="ascii")
    except OSError:
        log.debug("no oom_score_adj here", exc_info=True)


def _name_thread(name: str) -> None:
    """Sets the name that `top -H` shows; Python does not."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


if __name__ == "__main__":
    returncode = main()
    sys.stderr.flush()
    # An orderly shutdown of the interpreter aborts while the other thread reads standard input.
    os._exit(returncode)
