"""The worker process: commands on standard input, events on standard output, steps of the engine in between."""

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

from pydantic import ValidationError

from edge_agent.core import pipe
from edge_agent.core.environment import return_freed_memory
from edge_agent.engine.echo import EchoEngine
from edge_agent.engine.engine import CommandQueue, Engine, serve
from edge_agent.engine.priors import measure_priors
from edge_agent.engine.students import Students, engine_of

log = logging.getLogger(__name__)

_PROGRESS_S = 1.0
# The shortest time between two reports while idle, because a small model is idle after most requests.
_IDLE_PROGRESS_S = 0.1
# The worker holds the most memory and can be restarted, so the kernel should end it first.
_OOM_SCORE_ADJUST = 500


class _Router:
    """Passes commands from the reader's thread to a student, or else to the large model's thread."""

    def __init__(self) -> None:
        self.commands: CommandQueue = queue.SimpleQueue()
        self.students: Students | None = None  # None until the load, before which there are no requests.

    def put(self, command: pipe.Command) -> None:
        if self.students is None or not self.students.take(command):
            self.commands.put(command)


def main() -> int:
    """Serves until standard input ends (exit code 0), or the model cannot be opened or is lost (1)."""
    # Ctrl-C and a service manager's stop reach the whole group. The agent drains first, then ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Descriptor 1 becomes the log, so that libraries that print do not corrupt the events.
    events = _Events(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _raise_oom_score()
    router = _Router()
    threading.Thread(target=_read, args=(sys.stdin.buffer, router), name="engine-commands", daemon=True).start()
    try:
        return _run(router, events.emit)
    except BrokenPipeError:
        return 0
    except Exception:
        log.exception("the engine failed")
        return 1


class _Events:
    """Writes events of any thread, each whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def emit(self, event: pipe.Event) -> None:
        line = pipe.encode_event(event)
        with self._lock:
            self._file.write(line)
            self._file.flush()


def _read(source: BinaryIO, router: _Router) -> None:
    """Reads until the input ends, then ends the process at once: nothing in memory is worth keeping."""
    returncode = 1
    try:
        for line in source:
            router.put(pipe.decode_command(line))
        returncode = 0
    except ValidationError:
        log.exception("not a command")
    finally:
        # Also on a MemoryError, because a worker that reads no commands is useless.
        os._exit(returncode)


def _run(router: _Router, emit: Callable[[pipe.Event], None]) -> int:
    load = router.commands.get()
    if not isinstance(load, pipe.Load):
        log.error("the first command must be load, not %s", load.type)
        return 1
    began = perf_counter()
    on_progress = _loading_reporter(emit)
    try:
        engine, students = _open(load, on_progress, emit)
    except Exception as error:
        log.exception("model %r cannot be opened", load.model_path)
        emit(pipe.LoadFailed(message=str(error) or type(error).__name__))
        return 1
    return_freed_memory()
    emit(measure_priors(load, engine, load.tasks, emit))
    router.students = students
    emit(engine.ready(load_s=perf_counter() - began))
    _serve(engine, load, students, router.commands, emit)
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


def _open(
    load: pipe.Load, on_progress: Callable[[], None], emit: Callable[[pipe.Event], None]
) -> tuple[Engine, Students]:
    # They are opened before the model, because llama.cpp's log goes to the one that was opened last.
    students = Students(load, on_progress, emit)
    opener = EchoEngine if pipe.is_echo(load.model_path) else engine_of(load.model_path)
    return opener(load, on_progress), students


def _serve(
    engine: Engine,
    load: pipe.Load,
    students: Students,
    commands: CommandQueue,
    emit: Callable[[pipe.Event], None],
) -> None:
    reported_at = perf_counter()

    def on_command(command: pipe.Command) -> None:
        if isinstance(command, pipe.SetTasks):
            emit(measure_priors(load, engine, command.tasks, emit))

    def on_turn() -> float:
        nonlocal reported_at
        now = perf_counter()
        due_in_s = reported_at + (_PROGRESS_S if engine.has_work else _IDLE_PROGRESS_S) - now
        if due_in_s > 0:
            return due_in_s
        emit(replace(engine.progress(), students_s=students.busy_s()))
        reported_at = now
        return _PROGRESS_S

    serve(engine, commands, emit, on_command=on_command, on_turn=on_turn)


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
