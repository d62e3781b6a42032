"""Small models beside the large one. Each has a thread, so that none waits for a step of the large model."""

import logging
import os
import queue
import threading
from collections.abc import Callable

from edge_agent.core import pipe
from edge_agent.engine.engine import CommandQueue, Engine, serve

log = logging.getLogger(__name__)

# More threads would take cores from the large model, and gain nothing on matrices of this size.
_SETTINGS = pipe.EngineSettings(max_active=pipe.STUDENT_SLOTS, threads=1, prefill_threads=1)
_OnProgress = Callable[[], object]


def engine_of(path: str) -> Callable[[pipe.Load, _OnProgress], Engine]:
    """The engine that opens a file of a format of models/bundle, by its suffix. Raises LoadError."""
    # The echo engine must work without numpy, and where the native library is missing or does not fit the CPU.
    if path.endswith(".json"):
        from edge_agent.engine.usual_engine import UsualEngine  # noqa: PLC0415

        return UsualEngine
    from edge_agent.engine.llama_engine import LlamaEngine  # noqa: PLC0415

    return LlamaEngine


class Students:
    """All students of a worker, by name. They emit events from threads of their own. Raises LoadError."""

    def __init__(self, load: pipe.Load, on_progress: _OnProgress, emit: Callable[[pipe.Event], object]) -> None:
        self._engines: list[Engine] = []
        self._commands: dict[str, CommandQueue] = {}
        # The students of tasks that no large model answers, because a canary's request names no student.
        self._own = {
            task: student.name for student in load.students for task, labels in student.tasks.items() if not labels
        }
        for student in load.students:
            engine = engine_of(student.path)(pipe.Load(model_path=student.path, settings=_SETTINGS), on_progress)
            commands: CommandQueue = queue.SimpleQueue()
            self._engines.append(engine)
            self._commands[student.name] = commands
            threading.Thread(target=_serve, args=(engine, commands, emit), name=student.name, daemon=True).start()

    def take(self, command: pipe.Command) -> bool:
        """Gives a command to the student that it is for. False if the large model must get it, alone or as well."""
        if isinstance(command, pipe.Cancel):
            for commands in self._commands.values():
                commands.put(command)
        if not isinstance(command, pipe.EngineRequest):
            return False
        student = command.student or self._own.get(command.task)
        if student is not None:
            self._commands[student].put(command)
        return student is not None

    def busy_s(self) -> float:
        """Time of the steps of all students."""
        totals = [engine.progress() for engine in self._engines]
        return sum(progress.prefill_s + progress.decode_s for progress in totals)


def _serve(engine: Engine, commands: CommandQueue, emit: Callable[[pipe.Event], object]) -> None:
    try:
        serve(engine, commands, emit)
    except BaseException:
        log.exception("%s failed", threading.current_thread().name)
        # A fault of the large model ends the worker, too.
        os._exit(1)
