"""What one request costs an agent that has nothing else to do, and what a burst on a new task computes."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass

from rigs.bench.agent_side import AgentSide, task_name, task_table
from rigs.bench.asking import in_parallel
from rigs.bench.workload import LABELS, Kind

# With what the chat template ends on: what is computed for a request of a few values.
SHORT_TOKENS = 24
# Long enough for the worker to sleep again.
_PAUSE_S = 0.05
BURST = 4


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds: from publishing to the reply at the client, and from arrival to the first step."""

    answer_ms: float
    queued_ms: float


def idle_latency(agent: AgentSide, *, requests: int) -> Latency:
    """Raises ValueError if more than SHORT_TOKENS of a prompt were computed."""
    answers_ms, queued_ms = [], []
    pause = threading.Event()
    for number in range(requests):
        pause.wait(_PAUSE_S)
        value = {"pump": number, "reading": f"{number % 9}.4 mm/s, {60 + number % 30} °C"}
        began = time.perf_counter()
        reply = agent.client.ask(task_name(Kind.CLASSIFY), value)
        answers_ms.append((time.perf_counter() - began) * 1000)
        queued_ms.append(reply["timing"]["queued_ms"])
        computed = reply["usage"]["prompt_tokens"] - reply["usage"]["cached_tokens"]
        if computed > SHORT_TOKENS:
            raise ValueError(f"{computed} tokens were computed, more than {SHORT_TOKENS}")
    return Latency(statistics.median(answers_ms), statistics.median(queued_ms))


@dataclass(frozen=True)
class ColdBurst:
    """shared: requests that found the new prefix computed; computed_tokens: of the prefix, over all requests."""

    shared: int
    computed_tokens: int


def cold_burst(agent: AgentSide, *, words: str, constant_tokens: int) -> ColdBurst:
    """BURST requests at once, right after the reload that brings a task whose prompts begin with these words."""
    agent.add_task(task_table("burst", kind="classify", system=words, labels=list(LABELS)))
    replies, _ = in_parallel(lambda number: agent.client.ask("burst", f"reading {number}"), range(BURST), BURST)
    cached = [min(reply["usage"]["cached_tokens"], constant_tokens) for reply in replies]
    # At the edge between constant text and input a token may differ.
    shared = sum(count >= constant_tokens - 3 for count in cached)
    computed = sum(constant_tokens - count for count in cached)
    # If all found it, the engine had computed it once before for itself.
    return ColdBurst(shared, computed + constant_tokens if shared == BURST else computed)
