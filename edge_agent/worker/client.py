"""A worker process whose events are taken one by one: for programs that ask a model themselves, without the agent."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_agent.core.errors import how_ended
from edge_agent.core.load_progress import LOAD_SILENCE_S
from edge_agent.core.protocol import Event, Failed, Finished, Load, LoadFailed, Loading, Progress, Ready, Refused, Run
from edge_agent.worker.process import EngineProcess, WorkerExited

Answered = Finished | Refused | Failed
_Heard = Event | WorkerExited | KeyboardInterrupt

# The worker tells of itself every second while it is alive; a step is shorter than this on every board.
_SILENCE_S = 120.0
_STOP_S = 5.0


class WorkerError(Exception):
    """The worker does not load its model, has ended or says nothing; the message says why."""


class Worker:
    """A worker that runs. Its methods raise WorkerError if it ends or says nothing."""

    def __init__(self, process: EngineProcess, events: queue.SimpleQueue[_Heard]) -> None:
        self._process = process
        self._events = events

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def ready(self) -> Ready:
        """Waits until the model answers."""
        while isinstance(event := self._next(LOAD_SILENCE_S), Loading):
            pass
        if isinstance(event, LoadFailed):
            raise WorkerError(f"the model does not load: {event.message}")
        assert isinstance(event, Ready)
        return event

    def send(self, run: Run) -> None:
        """Hand a request over; `answer` gives its end."""
        self._process.send(run)

    def answer(self) -> Answered:
        """Waits until one of the requests ends."""
        while not isinstance(event := self._next(_SILENCE_S), Answered):
            assert isinstance(event, Progress)
        return event

    def ask(self, run: Run) -> Answered:
        """One request, while no other runs."""
        self.send(run)
        return self.answer()

    def _next(self, timeout_s: float) -> Event:
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            raise WorkerError(f"the worker said nothing for {timeout_s:.0f} s") from None
        if isinstance(event, KeyboardInterrupt):
            raise event
        if isinstance(event, WorkerExited):
            tail = "; ".join(event.log_tail[-3:])
            raise WorkerError(f"the worker ended ({how_ended(event.returncode)}): {tail}")
        return event


@contextmanager
def started(load: Load) -> Iterator[Worker]:
    """A worker that is stopped at the end.

    Ctrl-C is heard among the worker's events or at the end, not while the worker starts or stops. Raises OSError.
    """
    events: queue.SimpleQueue[_Heard] = queue.SimpleQueue()
    process = EngineProcess(load, events.put)
    with _interrupts_held(lambda: events.put(KeyboardInterrupt())):
        process.start()
        try:
            yield Worker(process, events)
        finally:
            process.stop(_STOP_S)


@contextmanager
def _interrupts_held(tell: Callable[[], None]) -> Iterator[None]:
    """What would raise KeyboardInterrupt calls `tell` instead, and raises it at the end, unless something else does."""
    came: list[int] = []

    def hold(number: int, _frame: object) -> None:
        came.append(number)
        tell()

    held = _interrupts()
    try:
        # A handler of Python's is not inherited by the worker, as an ignored or a blocked signal would be.
        for number in held:
            signal.signal(number, hold)
        yield
    finally:
        for number in held:
            signal.signal(number, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _interrupts() -> list[signal.Signals]:
    """Signals that interrupt this thread: only the main one hears any."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in signal.valid_signals() if signal.getsignal(number) is signal.default_int_handler]
