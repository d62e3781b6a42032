"""Small trained models beside the large one. Each has a thread, so that none waits for a step of the large model."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable

from edge_agent.core import pipe
from edge_agent.engine.engine import CommandQueue, serve
from edge_agent.engine.llama_engine import LlamaEngine

log = logging.getLogger(__name__)

# More threads would take cores from the large model, and gain nothing on matrices of this size.
_SETTINGS = pipe.EngineSettings(max_active=pipe.STUDENT_SLOTS, threads=1, prefill_threads=1)


class Students:
    """All students of a worker, by name. They emit events from threads of their own. Raises LoadError."""

    def __init__(
        self, load: pipe.Load, on_progress: Callable[[], object], emit: Callable[[pipe.Event], object]
    ) -> None:
        self._students = {one.name: _Student(one, on_progress, emit) for one in load.students}

    def take(self, command: pipe.Command) -> bool:
        """Gives a command to the student that it is for. False = it is for the large model, too."""
        if isinstance(command, pipe.Cancel):
            for one in self._students.values():
                one.commands.put(command)
        if not isinstance(command, pipe.EngineRequest) or command.student is None:
            return False
        self._students[command.student].commands.put(command)
        return True

    def busy_s(self) -> float:
        """Time of the steps of all students."""
        totals = [one.engine.progress() for one in self._students.values()]
        return sum(one.prefill_s + one.decode_s for one in totals)


class _Student:
    """A trained model, its commands and its thread."""

    def __init__(
        self, student: pipe.Student, on_progress: Callable[[], object], emit: Callable[[pipe.Event], object]
    ) -> None:
        self.commands: CommandQueue = queue.SimpleQueue()
        self.engine = LlamaEngine(pipe.Load(model_path=student.path, settings=_SETTINGS), on_progress)
        self._name = student.name
        threading.Thread(target=self._serve, args=(emit,), name=student.name, daemon=True).start()

    def _serve(self, emit: Callable[[pipe.Event], object]) -> None:
        try:
            serve(self.engine, self.commands, emit)
        except BaseException:
            log.exception("%s failed", self._name)
            # As a fault of the large model ends the worker.
            os._exit(1)
