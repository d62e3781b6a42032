"""The workload through a worker process, as the agent runs it: rates, latencies, memory, starts."""

from __future__ import annotations

import itertools
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic

from edge_agent.bench.results import Answer, Round, TaskResult, WorkerResult, task_result
from edge_agent.bench.workload import TASKS, run
from edge_agent.board.generic import process_memory
from edge_agent.engine.process import EngineProcess, WorkerExited
from edge_agent.engine.protocol import (
    Event,
    Failed,
    Finished,
    Load,
    LoadFailed,
    Progress,
    Ready,
    Refused,
    Run,
)
from edge_agent.tasks import Task

Say = Callable[[str], None]
_Heard = Event | WorkerExited | KeyboardInterrupt

_LOAD_TIMEOUT_S = 600.0
# The worker tells of itself every second while it is alive; a step is shorter than this on every board.
_SILENCE_S = 120.0
_STOP_S = 5.0


class BenchError(Exception):
    """There is nothing to measure; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure. Rounds go on until `budget_s` is over, but there are at least `rounds`."""

    rounds: int
    requests_per_client: int
    budget_s: float


FULL = Effort(rounds=2, requests_per_client=4, budget_s=60.0)
# Three: a single client's median needs as many.
QUICK = Effort(rounds=1, requests_per_client=3, budget_s=3.0)


class Worker:
    """A worker process whose events are taken one by one. Raises BenchError if it ends or says nothing."""

    def __init__(self, process: EngineProcess, events: queue.SimpleQueue[_Heard]) -> None:
        self._process = process
        self._events = events

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def ready(self) -> Ready:
        """Waits until the model answers."""
        event = self._next(_LOAD_TIMEOUT_S)
        if isinstance(event, LoadFailed):
            raise BenchError(f"the model does not load: {event.message}")
        assert isinstance(event, Ready)
        return event

    def round(self, runs: Sequence[Run], clients: int) -> Round:
        """All of these by so many clients: each asks the next one when it is answered."""
        sent_at: dict[int, float] = {}
        answers: list[Answer] = []
        waiting = iter(runs)
        began = monotonic()
        for one in itertools.islice(waiting, clients):
            sent_at[one.id] = monotonic()
            self._process.send(one)
        while len(answers) < len(runs):
            event = self._next(_SILENCE_S)
            if not isinstance(event, (Finished, Refused, Failed)):
                assert isinstance(event, Progress)
                continue
            answers.append(Answer(monotonic() - sent_at[event.id], event))
            if (following := next(waiting, None)) is not None:
                sent_at[following.id] = monotonic()
                self._process.send(following)
        return Round(monotonic() - began, tuple(answers))

    def _next(self, timeout_s: float) -> Event:
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            raise BenchError(f"the worker said nothing for {timeout_s:.0f} s") from None
        if isinstance(event, KeyboardInterrupt):
            raise event
        if isinstance(event, WorkerExited):
            tail = "; ".join(event.log_tail[-3:])
            raise BenchError(f"the worker ended with {event.returncode}: {tail}")
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


def measure_tasks(load: Load, effort: Effort, say: Say) -> tuple[list[TaskResult], WorkerResult, Ready]:
    """Starts a worker twice: for the tasks, and to see how long a start takes that finds what the first one kept.

    load.state_dir: an empty folder. Raises BenchError.
    """
    load = replace(load, tasks=tuple(task.prefix() for task in TASKS.values()))
    say("the worker starts and measures its steps")
    began = monotonic()
    with started(load) as worker:
        ready = worker.ready()
        first_start_s = monotonic() - began
        results = _rounds(worker, client_counts(load.settings.max_active), effort, say)
        memory = process_memory(worker.pid or 0)
    say("the worker starts again")
    began = monotonic()
    with started(load) as worker:
        worker.ready()
        later_start_s = monotonic() - began
    return (
        results,
        WorkerResult(
            anonymous_mib=None if memory is None else memory.anonymous_mib,
            file_mib=None if memory is None else memory.file_mib,
            repacked_mib=ready.repacked_mb,
            first_start_s=round(first_start_s, 2),
            later_start_s=round(later_start_s, 2),
        ),
        ready,
    )


def client_counts(max_active: int) -> list[int]:
    """One, four and as many as the engine answers at once."""
    return sorted({1, min(4, max_active), max_active})


def _rounds(worker: Worker, counts: Sequence[int], effort: Effort, say: Say) -> list[TaskResult]:
    """Tasks and numbers of clients take turns: heat, and what else the machine does, falls on all of them."""
    numbers = itertools.count(1)

    def runs(task: Task, count: int) -> list[Run]:
        return [run(task, next(numbers)) for _ in range(count)]

    for task in TASKS.values():
        worker.round(runs(task, 1), 1)
    rounds: dict[tuple[str, int], list[Round]] = {(name, count): [] for name in TASKS for count in counts}
    end_at = monotonic() + effort.budget_s
    for number in itertools.count(1):
        if number > effort.rounds and monotonic() > end_at:
            break
        for (name, count), found in rounds.items():
            say(f"tasks: round {number}, {name}, clients: {count}")
            found.append(worker.round(runs(TASKS[name], count * effort.requests_per_client), count))
    return [task_result(name, count, found) for (name, count), found in rounds.items()]
