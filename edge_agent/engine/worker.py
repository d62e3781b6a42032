"""The child process: commands on standard input, events on standard output, one step of the engine after another."""

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
    Ready,
    Run,
    SetLimits,
    SetTasks,
    decode_command,
    encode_event,
)
from edge_agent.engine.echo import SCHEME, EchoEngine
from edge_agent.engine.engine import Engine

_logger = logging.getLogger(__name__)

_PROGRESS_S = 1.0
# Of all processes on the board the worker holds most memory and is the one that is restarted. Thousandths of it.
_OOM_SCORE_ADJUST = 500
_PR_SET_NAME = 15  # linux/prctl.h


def main() -> int:
    """Serve until standard input ends (0), or the model cannot be opened or is lost (1)."""
    # Ctrl-C and a service manager's stop reach the whole group: the agent drains first, then ends this process itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Libraries that print must not spoil the events: from here on descriptor 1 is the log.
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
        _logger.exception("the engine is lost")
        return 1


class _Commands:
    """What the agent asks, read by a thread of its own, so that a cancel can end the step that runs."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._engine: Engine | None = None

    def interrupt(self, engine: Engine) -> None:
        """From now on a cancel interrupts this engine."""
        self._engine = engine

    def get(self) -> Command:
        """Waits for the next one."""
        return self._queue.get()

    def waiting(self, *, timeout_s: float) -> list[Command]:
        """All that are there; waits at most so long for the first one."""
        found: list[Command] = []
        try:
            if timeout_s:
                found.append(self._queue.get(timeout=timeout_s))
            while True:
                found.append(self._queue.get_nowait())
        except queue.Empty:
            return found

    def read(self, source: BinaryIO) -> None:
        """Ends the process at the end of input, at once: nothing that is left in memory is worth keeping."""
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
            _logger.exception("not a command")
        finally:
            # Also without memory, of which a chat template may take all there is: a deaf worker serves nobody.
            os._exit(returncode)


def _run(commands: _Commands, emit: Callable[[Event], None]) -> int:
    load = commands.get()
    if not isinstance(load, Load):
        _logger.error("the first command must be load, not %s", load.type)
        return 1
    began = perf_counter()
    try:
        with LoadProgress(emit) as progress:
            engine = _open_engine(load, progress)
    except Exception as error:
        _logger.exception("model %r cannot be opened", load.model_path)
        emit(LoadFailed(message=str(error) or type(error).__name__))
        return 1
    return_freed_memory()
    commands.interrupt(engine)
    facts = engine.facts
    emit(
        Ready(
            pid=os.getpid(),
            context_tokens=facts.context_tokens,
            max_active=facts.max_active,
            threads=facts.threads,
            prefill_threads=facts.prefill_threads,
            batch_tokens=facts.batch_tokens,
            vocabulary=facts.vocabulary,
            cpu_variant=facts.cpu_variant,
            repacked_mib=facts.repacked_mib,
            prefill_tok_s=facts.prefill_tok_s,
            decode_tok_s=facts.decode_tok_s,
            load_s=perf_counter() - began,
            measure_s=facts.measure_s,
        )
    )
    _serve(engine, commands, emit)
    return 0


def _open_engine(load: Load, progress: LoadProgress) -> Engine:
    if load.model_path.startswith(SCHEME):
        return EchoEngine(load, progress.advance)
    # An echo worker must start where the native library is missing or does not fit the CPU.
    from edge_agent.engine.llama_engine import LlamaEngine  # noqa: PLC0415

    # To measure pays where it is kept for the next start.
    return LlamaEngine(load, is_measured=load.state_dir is not None, progress=progress)


def _serve(engine: Engine, commands: _Commands, emit: Callable[[Event], None]) -> None:
    reported_at = perf_counter()
    while True:
        # To prepare a request takes milliseconds: what came meanwhile shares the step with it. Once only, for others
        # wait for the step, and commands may come without end.
        for timeout_s in (engine.linger_s if engine.has_work else _PROGRESS_S, 0.0):
            for command in commands.waiting(timeout_s=timeout_s):
                for event in _obey(engine, command):
                    emit(event)
        was_busy = engine.has_work
        if was_busy and not engine.linger_s:
            for event in engine.step():
                emit(event)
        now = perf_counter()
        if now - reported_at >= _PROGRESS_S or (was_busy and not engine.has_work):
            emit(engine.progress())
            reported_at = now


def _obey(engine: Engine, command: Command) -> list[Event]:
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
        _logger.debug("no oom_score_adj here", exc_info=True)


def _name_thread(name: str) -> None:
    """What `top -H` shows; Python names its threads for itself only."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


if __name__ == "__main__":
    returncode = main()
    sys.stderr.flush()
    # An orderly shutdown of the interpreter aborts, for the other thread still reads standard input.
    os._exit(returncode)
