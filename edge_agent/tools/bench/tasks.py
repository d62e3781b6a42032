"""The same tasks for every board in a worker process, as the agent runs it, for rates, latencies, memory and starts."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from edge_agent.board.process import process_memory
from edge_agent.core.codes import Code
from edge_agent.core.envelope import Envelope
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.kinds.extract import ExtractTask
from edge_agent.core.kinds.generate import GenerateTask
from edge_agent.core.pipe import EngineRequest, Failed, Finished, Load, Ready
from edge_agent.requests.statistics import percentile
from edge_agent.requests.tasks import Task, prefixes_of
from edge_agent.worker.client import WorkerClient, WorkerError, started

Say = Callable[[str], None]
# With fewer answers a percentile would be the fastest or the slowest of them.
MIN_ANSWERS = {50: 3, 95: 20, 99: 100}
# At least so many rounds, and the seconds until the last one begins.
_ROUNDS, _BUDGET_S = 2, 60.0
_QUICK_ROUNDS, _QUICK_BUDGET_S = 1, 3.0
# Three are the least for the median of a single client.
_REQUESTS_PER_CLIENT = 3
_CONDITIONS = ["normal", "imbalance", "bearing fault", "cavitation", "overload", "leak"]
# About 185 tokens with Qwen's vocabulary.
_SYSTEM = (
    "You monitor the pumps of a waterworks. Each reading holds the vibration in mm/s, the temperature of the bearing "
    "in °C, the current of the motor in A, the pressure behind the pump in bar and the speed in rpm. A pump is normal "
    "below 2.8 mm/s and 70 °C at 5 to 7 bar. Strong vibration at the usual temperature is imbalance; vibration "
    "together with a bearing above 80 °C is a bearing fault. Pressure that is low and unsteady at full speed is "
    "cavitation; a current above 15 A at low speed is overload; pressure that falls at the usual current and speed is "
    "a leak. Judge the whole reading, not one value of it, and do not guess causes that it does not show. A "
    "value that is missing is unknown, not zero. "
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "condition": {"enum": _CONDITIONS},
        "severity": {"enum": ["low", "medium", "high"]},
        "stop": {"type": "boolean"},
        "action": {"type": "string", "maxLength": 60},
    },
    "required": ["condition", "severity", "stop", "action"],
    "additionalProperties": False,
}
_CLASSIFY = ClassifyTask(kind="classify", system=_SYSTEM + "Name the condition of the pump.", labels=tuple(_CONDITIONS))
_EXTRACT = ExtractTask(kind="extract", system=_SYSTEM + "Diagnose the reading.", max_tokens=160, schema=_SCHEMA)
_GENERATE = GenerateTask(kind="generate", system=_SYSTEM + "Explain it in detail.", max_tokens=32)
# Not the task `generate`, which is the built-in one and takes no readings.
TASKS: dict[str, Task] = {
    config.kind: Task(f"bench-{config.kind}", config) for config in (_CLASSIFY, _EXTRACT, _GENERATE)
}


@dataclass(frozen=True, slots=True)
class Round:
    """Requests of one task by some clients."""

    elapsed_s: float  # From the first request to the last answer.
    answers: list[tuple[float, Finished | Failed]]  # How each request ended, after the seconds since it was sent.

    @property
    def finished(self) -> list[Finished]:
        return [event for _, event in self.answers if isinstance(event, Finished)]


def measure_tasks(
    load: Load, say: Say, *, is_quick: bool
) -> tuple[list[dict[str, Any]], dict[str, float | None], Ready]:
    """Starts a worker twice, for the tasks, and to time a start with a filled cache.

    Also returns the worker's memory after all tasks, and its times from start to ready. The first start measures and
    decodes prefixes, so `load.state_dir` is an empty folder. Raises WorkerError, OSError.
    """
    load = replace(load, tasks=prefixes_of(TASKS.values()))
    say("starting the worker, which measures its steps")
    began = monotonic()
    with started(load) as worker:
        ready = worker.ready()
        first_start_s = monotonic() - began
        results = _rounds(worker, client_counts(load.settings.max_active), say, is_quick=is_quick)
        memory = process_memory(worker.process.pid)
    say("starting the worker again")
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
    return sorted({1, min(4, max_active), max_active})


def reading_request(task: Task, number: int) -> EngineRequest:
    """The request for the reading of this number, as the agent sends it to the worker."""
    # About 50 tokens; readings differ in all values.
    reading = {
        "pump": f"P-{number}",
        "vibration_mm_s": round(1.2 + number * 0.37 % 9, 2),
        "temperature_c": round(48 + number * 1.7 % 45, 1),
        "current_a": round(8 + number * 0.53 % 11, 1),
        "pressure_bar": round(2.5 + number * 0.29 % 5, 2),
    }
    return task.build_engine_request(number, Envelope(input=reading))


def _rounds(worker: WorkerClient, counts: Sequence[int], say: Say, *, is_quick: bool) -> list[dict[str, Any]]:
    """Tasks and numbers of clients take turns, so that heat and other load affect all of them alike."""
    numbers = itertools.count(1)

    def runs(task: Task, count: int) -> list[EngineRequest]:
        return [reading_request(task, next(numbers)) for _ in range(count)]

    for task in TASKS.values():
        [(_, answer)] = _round(worker, runs(task, 1), 1).answers
        if isinstance(answer, Failed) and answer.code is Code.UNKNOWN_TASK:
            raise WorkerError(f"bench uses tasks of its own: {answer.message}")
    rounds: dict[tuple[str, int], list[Round]] = {(name, count): [] for name in TASKS for count in counts}
    min_rounds, budget_s = (_QUICK_ROUNDS, _QUICK_BUDGET_S) if is_quick else (_ROUNDS, _BUDGET_S)
    end_at = monotonic() + budget_s
    for number in itertools.count(1):
        if number > min_rounds and monotonic() > end_at:
            break
        for (name, count), done in rounds.items():
            say(f"tasks: round {number}, {name}, clients: {count}")
            done.append(_round(worker, runs(TASKS[name], count * _REQUESTS_PER_CLIENT), count))
    return [task_figures(name, count, done) for (name, count), done in rounds.items()]


def _round(worker: WorkerClient, runs: Sequence[EngineRequest], clients: int) -> Round:
    """Asks all of these; each client sends the next request when it has its answer."""
    sent_at: dict[int, float] = {}
    result = Round(0.0, [])
    waiting = iter(runs)
    began = monotonic()

    def send(run: EngineRequest) -> None:
        sent_at[run.id] = monotonic()
        worker.process.send(run)

    for run in itertools.islice(waiting, clients):
        send(run)
    while len(result.answers) < len(runs):
        answered = worker.answer()
        result.answers.append((monotonic() - sent_at[answered.id], answered))
        if (following := next(waiting, None)) is not None:
            send(following)
    return replace(result, elapsed_s=monotonic() - began)


def task_figures(task: str, clients: int, rounds: Sequence[Round]) -> dict[str, Any]:
    """All rounds of a task with a number of clients; what was not measured is None.

    Rates are medians over the rounds, so that one disturbed round does not count; those of prefill and decode are what
    one request gets. Latencies are of all answered requests, None if there are fewer than MIN_ANSWERS. The failure is
    that of the latest failed request.
    """
    answers = [answer for round_ in rounds for answer in round_.answers]
    finished = [event for round_ in rounds for event in round_.finished]
    failures = [event.message for _, event in answers if not isinstance(event, Finished)]
    latencies_ms = [latency_s * 1000 for latency_s, event in answers if isinstance(event, Finished)]
    prompt_tokens = sum(event.prompt_tokens for event in finished)

    def latency(percent: int) -> float | None:
        value = percentile(latencies_ms, percent) if len(latencies_ms) >= MIN_ANSWERS[percent] else None
        return None if value is None else round(value, 1)

    def rate(count: Callable[[Finished], int]) -> float:
        return statistics.median(sum(map(count, round_.finished)) / round_.elapsed_s for round_ in rounds)

    return {
        "task": task,
        "clients": clients,
        "rounds": len(rounds),
        "requests": len(answers),
        "failed": len(failures),
        "failure": failures[-1] if failures else None,
        "requests_per_s": round(rate(lambda _: 1), 3),
        **{f"p{percent}_ms": latency(percent) for percent in MIN_ANSWERS},
        "completion_tokens_per_s": round(rate(lambda event: event.completion_tokens), 1),
        "prefill_tokens_per_s": _per_second(
            sum(event.prompt_tokens - event.cached_tokens for event in finished),
            sum(event.prefill_ms for event in finished),
        ),
        "decode_tokens_per_s": _per_second(
            sum(max(0, event.completion_tokens - 1) for event in finished), sum(event.decode_ms for event in finished)
        ),
        "prompt_tokens": round(prompt_tokens / len(finished), 1) if finished else None,
        "completion_tokens": (
            round(sum(event.completion_tokens for event in finished) / len(finished), 1) if finished else None
        ),
        "cached_share": (
            round(sum(event.cached_tokens for event in finished) / prompt_tokens, 3) if prompt_tokens else None
        ),
    }


def _per_second(tokens: int, elapsed_ms: float) -> float | None:
    return round(1000 * tokens / elapsed_ms, 1) if tokens and elapsed_ms else None
