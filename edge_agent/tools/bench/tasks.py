"""The tasks in a worker process, as the agent runs it: rates, latencies, memory, starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from edge_agent.board.process import process_memory
from edge_agent.core.protocol import Load, Ready, Run
from edge_agent.requests.tasks import Task
from edge_agent.tools.bench.results import Round, TaskResult, TimedAnswer, task_result
from edge_agent.tools.bench.workload import TASKS, run
from edge_agent.worker.client import Worker, started

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure: until `budget_s` is over, but at least `rounds`."""

    rounds: int
    requests_per_client: int
    budget_s: float


FULL = Effort(rounds=2, requests_per_client=4, budget_s=60.0)
# Three requests: the median of a single client needs as many.
QUICK = Effort(rounds=1, requests_per_client=3, budget_s=3.0)


def measure_tasks(load: Load, effort: Effort, say: Say) -> tuple[list[TaskResult], dict[str, float | None], Ready]:
    """Starts a worker twice: for the tasks, and to time a start with a filled cache.

    Returns also the worker's memory after all tasks and the times from its start to ready: the first one includes
    measurements and prefixes. load.state_dir: an empty folder. Raises WorkerError, OSError.
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
    figures = {
        # Repacked weights, KV cells, buffers.
        "anonymous_mib": None if memory is None else memory.anonymous_mib,
        # Weights as in the file, which the kernel may drop.
        "file_mib": None if memory is None else memory.file_mib,
        "repacked_mib": ready.repacked_mib,
        "first_start_s": round(first_start_s, 2),
        "later_start_s": round(later_start_s, 2),
    }
    return results, figures, ready


def client_counts(max_active: int) -> list[int]:
    """1, 4 and `max_active`."""
    return sorted({1, min(4, max_active), max_active})


def _rounds(worker: Worker, counts: Sequence[int], effort: Effort, say: Say) -> list[TaskResult]:
    """Tasks and numbers of clients take turns, so that heat and other load affect all of them alike."""
    numbers = itertools.count(1)

    def runs(task: Task, count: int) -> list[Run]:
        return [run(task, next(numbers)) for _ in range(count)]

    for task in TASKS.values():
        _round(worker, runs(task, 1), 1)
    rounds: dict[tuple[str, int], list[Round]] = {(name, count): [] for name in TASKS for count in counts}
    end_at = monotonic() + effort.budget_s
    for number in itertools.count(1):
        if number > effort.rounds and monotonic() > end_at:
            break
        for (name, count), found in rounds.items():
            say(f"tasks: round {number}, {name}, clients: {count}")
            found.append(_round(worker, runs(TASKS[name], count * effort.requests_per_client), count))
    return [task_result(name, count, found) for (name, count), found in rounds.items()]


def _round(worker: Worker, runs: Sequence[Run], clients: int) -> Round:
    """Asks all of these; each client sends the next request when it has its answer."""
    sent_at: dict[int, float] = {}
    answers: list[TimedAnswer] = []
    waiting = iter(runs)
    began = monotonic()

    def send(one: Run) -> None:
        sent_at[one.id] = monotonic()
        worker.send(one)

    for one in itertools.islice(waiting, clients):
        send(one)
    while len(answers) < len(runs):
        answered = worker.answer()
        answers.append(TimedAnswer(monotonic() - sent_at[answered.id], answered))
        if (following := next(waiting, None)) is not None:
            send(following)
    return Round(monotonic() - began, tuple(answers))
