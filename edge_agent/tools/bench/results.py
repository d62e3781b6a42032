"""PURE. What a bench finds. None = not measured; a 0 was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.core.protocol import Failed, Finished, Refused
from edge_agent.requests.statistics import percentile

# Of fewer answers a percentile is just the fastest or the slowest of them.
FEWEST_ANSWERS = {50: 3, 95: 20, 99: 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Steps of so many rows. tokens_per_s: by number of threads, as far as there was time to measure.

    chosen_threads, chosen_rows: what the agent runs such a step with, and how wide: some rows wait, or are added idle,
    where a kernel likes another width better.
    """

    rows: int
    tokens_per_s: dict[int, float]
    chosen_threads: int
    chosen_rows: int

    @property
    def fastest_threads(self) -> int | None:
        return max(self.tokens_per_s, key=self.tokens_per_s.__getitem__, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResults:
    """decode: each row is another request's; prefill: rows are a prompt's, which the agent cuts into `batch_tokens`."""

    decode: tuple[StepResult, ...]
    prefill: tuple[StepResult, ...]
    batch_tokens: int

    @property
    def decode_loss(self) -> float | None:
        """How many times slower than on the fastest number of threads the agent lets one request decode."""
        return _loss(self.decode[:1], self.decode[:1])

    @property
    def prefill_loss(self) -> float | None:
        """How many times slower than the fastest width and number of threads the agent's are."""
        return _loss([result for result in self.prefill if result.rows == self.batch_tokens], self.prefill)


def _loss(chosen: Sequence[StepResult], among: Sequence[StepResult]) -> float | None:
    """None where the time was over before the chosen one was measured."""
    rates = [rate for result in chosen if (rate := result.tokens_per_s.get(result.chosen_threads))]
    best = max((rate for result in among for rate in result.tokens_per_s.values()), default=None)
    return round(best / rates[0], 2) if best and rates else None


@dataclass(frozen=True, slots=True)
class Answer:
    """latency_s: from handing the request over to the worker to hearing of its end."""

    latency_s: float
    event: Finished | Refused | Failed


@dataclass(frozen=True, slots=True)
class Round:
    """Requests of one task by some clients; elapsed_s: from the first request to the last answer."""

    elapsed_s: float
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """Of all rounds of a task with so many clients, each of which asks again when it is answered.

    Rates are medians over the rounds, for a round in which the machine did something else says little of this board;
    latencies are of all requests that were answered, None where those are fewer than FEWEST_ANSWERS. failure: why the
    latest of the failed ones failed.
    joules_*: energy, where the board can measure its power.
    """

    task: str
    clients: int
    rounds: int
    requests: int
    failed: int
    failure: str | None
    requests_per_s: float
    lowest_requests_per_s: float
    highest_requests_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    completion_tokens_per_s: float
    prompt_tokens: float | None
    completion_tokens: float | None
    cached_share: float | None
    joules_per_request: float | None = None
    joules_per_completion_token: float | None = None


def task_result(task: str, clients: int, rounds: Sequence[Round]) -> TaskResult:
    """At least one round."""
    answers = [answer for round_ in rounds for answer in round_.answers]
    finished = [answer.event for answer in answers if isinstance(answer.event, Finished)]
    messages = [answer.event.message for answer in answers if not isinstance(answer.event, Finished)]
    latencies_ms = [answer.latency_s * 1000 for answer in answers if isinstance(answer.event, Finished)]
    rates = [len(_finished(round_)) / round_.elapsed_s for round_ in rounds]
    written = [sum(event.completion_tokens for event in _finished(round_)) / round_.elapsed_s for round_ in rounds]
    prompt_tokens = sum(event.prompt_tokens for event in finished)
    p50, p95, p99 = (
        _rounded(percentile(latencies_ms, percent), 1) if len(latencies_ms) >= fewest else None
        for percent, fewest in FEWEST_ANSWERS.items()
    )
    return TaskResult(
        task=task,
        clients=clients,
        rounds=len(rounds),
        requests=len(answers),
        failed=len(messages),
        failure=messages[-1] if messages else None,
        requests_per_s=round(statistics.median(rates), 3),
        lowest_requests_per_s=round(min(rates), 3),
        highest_requests_per_s=round(max(rates), 3),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        completion_tokens_per_s=round(statistics.median(written), 1),
        prompt_tokens=_rounded(prompt_tokens / len(finished), 1) if finished else None,
        completion_tokens=round(sum(e.completion_tokens for e in finished) / len(finished), 1) if finished else None,
        cached_share=round(sum(e.cached_tokens for e in finished) / prompt_tokens, 3) if prompt_tokens else None,
    )


def _finished(round_: Round) -> list[Finished]:
    return [answer.event for answer in round_.answers if isinstance(answer.event, Finished)]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerResult:
    """The worker as a process. anonymous_mib, file_mib: resident memory after it has answered all tasks.

    anonymous: repacked weights, KV cells, buffers; file: weights as the file has them, which the kernel may drop.
    first_start_s: with its measurements and prefixes still to make; later_start_s: with both kept; process to ready.
    """

    anonymous_mib: float | None
    file_mib: float | None
    repacked_mib: float | None
    first_start_s: float
    later_start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardResult:
    """The machine. load1 is from before; soc_before_c and soc_after_c are null where no sensor tells."""

    name: str
    machine: str
    cores: int
    cpu_variant: str
    load1: float | None
    soc_before_c: float | None
    soc_after_c: float | None
