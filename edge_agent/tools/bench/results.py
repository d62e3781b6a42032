"""What `bench` measures. None = not measured; 0 = measured as zero."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.core.protocol import Failed, Finished
from edge_agent.requests.statistics import percentile

# With fewer answers a percentile would be the fastest or the slowest of them.
MIN_ANSWERS = {50: 3, 95: 20, 99: 100}


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """latency_s: from sending the request to the worker until its end."""

    latency_s: float
    event: Finished | Failed


@dataclass(frozen=True, slots=True)
class Round:
    """Requests of one task by some clients; elapsed_s: from the first request to the last answer."""

    elapsed_s: float
    answers: tuple[TimedAnswer, ...]

    @property
    def finished(self) -> list[Finished]:
        return [answer.event for answer in self.answers if isinstance(answer.event, Finished)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """All rounds of a task with a number of clients, and each client asks again when it has its answer.

    Rates are medians over the rounds, so that one disturbed round does not count. Latencies are of all answered
    requests, None where there are fewer than MIN_ANSWERS. failure: the reason of the latest failed request.
    """

    task: str
    clients: int
    rounds: int
    requests: int
    failed: int
    failure: str | None
    requests_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    completion_tokens_per_s: float
    prompt_tokens: float | None
    completion_tokens: float | None
    cached_share: float | None


def task_result(task: str, clients: int, rounds: Sequence[Round]) -> TaskResult:
    """The result of one or more rounds."""
    answers = [answer for one in rounds for answer in one.answers]
    finished = [event for one in rounds for event in one.finished]
    failures = [answer.event.message for answer in answers if not isinstance(answer.event, Finished)]
    latencies_ms = [answer.latency_s * 1000 for answer in answers if isinstance(answer.event, Finished)]
    prompt_tokens = sum(event.prompt_tokens for event in finished)
    written = sum(event.completion_tokens for event in finished)
    cached = sum(event.cached_tokens for event in finished)

    def latency(percent: int) -> float | None:
        value = percentile(latencies_ms, percent) if len(latencies_ms) >= MIN_ANSWERS[percent] else None
        return None if value is None else round(value, 1)

    return TaskResult(
        task=task,
        clients=clients,
        rounds=len(rounds),
        requests=len(answers),
        failed=len(failures),
        failure=failures[-1] if failures else None,
        requests_per_s=round(statistics.median(len(one.finished) / one.elapsed_s for one in rounds), 3),
        p50_ms=latency(50),
        p95_ms=latency(95),
        p99_ms=latency(99),
        completion_tokens_per_s=round(
            statistics.median(sum(event.completion_tokens for event in one.finished) / one.elapsed_s for one in rounds),
            1,
        ),
        prompt_tokens=round(prompt_tokens / len(finished), 1) if finished else None,
        completion_tokens=round(written / len(finished), 1) if finished else None,
        cached_share=round(cached / prompt_tokens, 3) if prompt_tokens else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Steps with this number of rows. tokens_per_s: by number of threads, as far as there was time to measure.

    chosen_threads, chosen_rows: how the agent runs a step of this width. It pads a step, or delays rows, where a kernel
    is faster with another width.
    """

    rows: int
    tokens_per_s: dict[int, float]
    chosen_threads: int
    chosen_rows: int
    fastest_threads: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResults:
    """decode: each row belongs to another request. prefill: all rows belong to one prompt.

    batch_tokens: the width of the steps into which the agent cuts a prompt.
    """

    decode: tuple[StepResult, ...]
    prefill: tuple[StepResult, ...]
    batch_tokens: int
