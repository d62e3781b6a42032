"""Small trained models beside the large one. Each has a thread, so that no student waits for a step of the large model.

A student is asked first. Its answer stands from a score on that the agent gives with the request; else the request is
passed on to the large model.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.core import pipe
from edge_agent.engine.llama_engine import LlamaEngine
from edge_agent.engine.loop import CommandQueue, serve
from edge_agent.engine.prompt.field_table import FieldTable
from edge_agent.gguf.header import read_header
from edge_agent.gguf.model import FIELDS_KEY

log = logging.getLogger(__name__)

# More threads would take cores from the large model, and gain nothing on matrices of this size.
_SETTINGS = pipe.EngineSettings(max_active=pipe.STUDENT_SLOTS, threads=1, prefill_threads=1)


@dataclass(frozen=True, slots=True)
class _PassedOn:
    """What a student did for a request that the large model answers."""

    answer: pipe.StudentAnswer
    started_at: float
    share_s: float


class Students:
    """All students of a worker, by task.

    pass_on: gives a request to the large model. emit: takes events. Both are called from the students' threads.
    Raises LoadError, HeaderError or ValueError for a file that is no student.
    """

    def __init__(
        self,
        load: pipe.Load,
        on_progress: Callable[[], object],
        pass_on: Callable[[pipe.Run], object],
        emit: Callable[[pipe.Event], object],
    ) -> None:
        self._passed_on: dict[int, _PassedOn] = {}
        self._pass_on = pass_on
        self._students = [_Student(one, on_progress, emit, self._take_over) for one in load.students]
        self._by_task = {task: one for one in self._students for task in one.tasks}

    @property
    def tasks(self) -> dict[str, str]:
        """The name of its student by task."""
        return {task: one.name for task, one in self._by_task.items()}

    def take(self, command: pipe.Command) -> bool:
        """Gives a command to the student that it is for. False = it is for the large model, too. From any thread."""
        if isinstance(command, pipe.Cancel):
            for one in self._students:
                one.commands.put(command)
        if not isinstance(command, pipe.Run) or command.student_least is None:
            return False
        student = self._by_task.get(command.task)
        if student is None:
            return False
        student.runs[command.id] = command
        student.commands.put(command)
        return True

    def _take_over(self, run: pipe.Run, before: _PassedOn | None) -> None:
        if before is not None:
            self._passed_on[run.id] = before
        self._pass_on(run)

    def complete(self, event: pipe.Event) -> pipe.Event:
        """An event of the large model, with what a student did for the request before."""
        before = self._passed_on.pop(event.id, None) if isinstance(event, pipe.WorkerAnswer) else None
        if before is None or not isinstance(event, pipe.Finished):
            return event
        share_s = event.share_s + before.share_s
        return replace(event, student=before.answer, started_at=before.started_at, share_s=share_s)

    def busy_s(self) -> float:
        """Time of the steps of all students."""
        return sum(one.busy_s() for one in self._students)


class _Student:
    """tasks: those of `classify` that it is trained for. runs: that it was given, by id."""

    def __init__(
        self,
        student: pipe.Student,
        on_progress: Callable[[], object],
        emit: Callable[[pipe.Event], object],
        pass_on: Callable[[pipe.Run, _PassedOn | None], object],
    ) -> None:
        table = FieldTable.model_validate_json(read_header(Path(student.path)).text(FIELDS_KEY))
        self.name = student.name
        self.tasks = [name for name, task in table.tasks.items() if task.kind == "classify"]
        self.commands: CommandQueue = queue.SimpleQueue()
        self.runs: dict[int, pipe.Run] = {}
        self._emit, self._pass_on = emit, pass_on
        self._engine = LlamaEngine(pipe.Load(model_path=student.path, settings=_SETTINGS), on_progress)
        threading.Thread(target=self._serve, name=f"student-{self.name}", daemon=True).start()

    def _serve(self) -> None:
        try:
            serve(self._engine, self.commands, self._on_event)
        except BaseException:
            log.exception("student %s failed", self.name)
            # As a fault of the large model ends the worker.
            os._exit(1)

    def _on_event(self, event: pipe.Event) -> None:
        if not isinstance(event, pipe.WorkerAnswer):
            return
        run = self.runs.pop(event.id)
        if isinstance(event, pipe.Cancelled):
            self._emit(event)
        elif isinstance(event, pipe.Failed) or event.scores is None or event.is_unlike or run.student_least is None:
            self._give_up(run, None)
        else:
            stands = max(event.scores.values()) >= run.student_least
            answer = pipe.StudentAnswer(name=self.name, scores=event.scores, stands=stands)
            if stands:
                self._emit(replace(event, student=answer))
            else:
                self._give_up(run, _PassedOn(answer, event.started_at, event.share_s))

    def _give_up(self, run: pipe.Run, before: _PassedOn | None) -> None:
        if run.student_only is None:
            self._pass_on(run, before)
        else:
            message = f"student {self.name} is not sure of it, and the model takes no such request now"
            self._emit(pipe.Failed(id=run.id, code=run.student_only, message=message))

    def busy_s(self) -> float:
        totals = self._engine.progress()
        return totals.prefill_s + totals.decode_s
