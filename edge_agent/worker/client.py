"""A worker process that its caller asks directly and waits for: the trial of a new model, the tools, the converter."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from edge_agent.core import pipe
from edge_agent.core.wording import end_of_log, how_ended
from edge_agent.worker.process import ANSWER_SILENCE_S, WorkerExited, WorkerProcess

Answered = pipe.Finished | pipe.Failed
Deliver = Callable[[pipe.Event | WorkerExited], None]

_STOP_S = 5.0


class WorkerError(Exception):
    """The worker does not load its model, has ended or is silent; the message says which."""


class WorkerClient:
    """A worker process. Methods that wait raise WorkerError if it ends or stays silent for too long."""

    def __init__(self, load: pipe.Load) -> None:
        """Raises OSError if the process cannot be started."""
        self._events: queue.SimpleQueue[pipe.Event | WorkerExited] = queue.SimpleQueue()
        # None until the process is handed over.
        self._deliver: Deliver | None = None
        self._delivery_lock = threading.Lock()
        self.process = WorkerProcess(load, self._receive)

    def ready(self) -> pipe.Ready:
        """Waits until the model answers."""
        while isinstance(event := self._next(pipe.LOAD_SILENCE_S), pipe.Loading | pipe.Priors):
            pass
        if isinstance(event, pipe.LoadFailed):
            raise WorkerError(f"the model does not load: {event.message}")
        assert isinstance(event, pipe.Ready)
        return event

    def answer(self) -> Answered:
        """Waits until one of the requests ends."""
        while not isinstance(event := self._next(ANSWER_SILENCE_S), Answered):
            assert isinstance(event, pipe.Progress)
        return event

    def ask(self, request: pipe.EngineRequest) -> Answered:
        """One request, while no other runs."""
        self.process.send(request)
        return self.answer()

    def ask_all(self, requests: Iterable[pipe.EngineRequest], *, at_once: int) -> Iterator[Answered]:
        """Several requests side by side, numbered from 1; gives their answers as they end, while no other runs."""
        waiting = 0
        for number, request in enumerate(requests, start=1):
            if waiting == at_once:
                yield self.answer()
                waiting -= 1
            self.process.send(replace(request, id=number))
            waiting += 1
        for _ in range(waiting):
            yield self.answer()

    def set_tasks(self, tasks: tuple[pipe.TaskPrefix, ...]) -> dict[str, dict[str, float]]:
        """Replaces the tasks, while no request runs. Returns their priors, by the task's definition."""
        self.process.send(pipe.SetTasks(tasks=tasks))
        while not isinstance(event := self._next(ANSWER_SILENCE_S), pipe.Priors):
            assert isinstance(event, pipe.Progress | pipe.Loading)
        return event.scores

    def hand_over(self, deliver: Deliver) -> None:
        """Events go to `deliver` from now on. Of those that wait, only the end of the process is passed on."""
        with self._delivery_lock:
            self._deliver = deliver
            while not self._events.empty():
                if isinstance(event := self._events.get(), WorkerExited):
                    deliver(event)

    def _receive(self, _process: WorkerProcess, event: pipe.Event | WorkerExited) -> None:
        with self._delivery_lock:
            if self._deliver is None:
                self._events.put(event)
                return
        self._deliver(event)

    def _next(self, timeout_s: float) -> pipe.Event:
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            raise WorkerError(f"the worker was silent for {timeout_s:.0f} s") from None
        if isinstance(event, WorkerExited):
            words = end_of_log(event.log_tail)
            raise WorkerError(f"the worker ended ({how_ended(event.returncode)}){': ' if words else ''}{words}")
        return event


@contextmanager
def started(load: pipe.Load) -> Iterator[WorkerClient]:
    """A worker that is stopped at the end; it also ends when this process does. Raises OSError."""
    worker = WorkerClient(load)
    try:
        yield worker
    finally:
        worker.process.stop(_STOP_S)
