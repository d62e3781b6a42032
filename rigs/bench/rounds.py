"""The rounds of the comparison: all sides are loaded, one works at a time, every figure is kept by round."""

from __future__ import annotations

import re
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from rigs.bench.agent import AgentSide, in_parallel, task_name, task_table
from rigs.bench.server import batched_tokens_per_s, prefill_tokens_per_s
from rigs.bench.workload import (
    BATCH_TOKENS,
    CLIENTS,
    GENERATED_TOKENS,
    LABELS,
    Answer,
    Kind,
    Reading,
    chatml,
    check_answer,
    constant_text,
    free_text,
    readings,
)

WIDTHS = (CLIENTS, 1, 2, 4)
BURST = 4
# With the end of the chat template: the tokens that a request of a few values computes.
SHORT_TOKENS = 24
_IDLE_REQUESTS = 25
# Long enough for the worker to sleep again.
_IDLE_PAUSE_S = 0.05
# Makes the prefix of a new task about 300 tokens.
_BURST_RULES = "Compare the flow with the pressure before you judge. Say what a technician would say. " * 16
_OWN_MEMORY = re.compile(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", re.MULTILINE)


class Side(Protocol):
    """Answers from several threads at once; raises for any answer that is not ok."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    def ask(self, kind: Kind, reading: Reading) -> Answer: ...


class Server(Side, Protocol):
    def count_tokens(self, text: str) -> int: ...


@dataclass(frozen=True)
class Limits:
    """What llama.cpp's benchmarks reach: prefill tokens per second, and written tokens per second of all clients."""

    prefill: Callable[..., float] = prefill_tokens_per_s
    batched: Callable[..., float] = batched_tokens_per_s


@dataclass(frozen=True)
class Sides:
    agent: AgentSide
    server: Server
    programs: Path
    model: Path
    limits: Limits = Limits()


@dataclass(frozen=True)
class Run:
    """Answers in the order of their questions, and the seconds that all of them took."""

    answers: Sequence[Answer]
    seconds: float

    @property
    def requests_per_s(self) -> float:
        return len(self.answers) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.completion_tokens for answer in self.answers) / self.seconds

    @property
    def written_tokens(self) -> float:
        """Per request."""
        return sum(answer.completion_tokens for answer in self.answers) / len(self.answers)

    @property
    def computed_tokens(self) -> float:
        """Prompt tokens that were not in a cache, per request."""
        return sum(answer.prompt_tokens - answer.cached_tokens for answer in self.answers) / len(self.answers)


@dataclass(frozen=True)
class Latency:
    """Medians in ms on an idle agent: from publishing to the reply, and from arrival to the first step."""

    answer_ms: float
    queued_ms: float


@dataclass(frozen=True)
class ColdBurst:
    """shared: requests that found the new prefix computed; computed_tokens: of the prefix, over all requests."""

    shared: int
    computed_tokens: int


@dataclass
class Measured:
    """By round: runs by side, kind and clients, and the figures beside them. Memory in MiB.

    text_speeds: by clients, tokens per second at which the agent writes texts.
    """

    runs: dict[tuple[str, Kind, int], list[Run]] = field(default_factory=lambda: defaultdict(list))
    prefill_limit: list[float] = field(default_factory=list)
    generate_limit: list[float] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    bursts: list[ColdBurst] = field(default_factory=list)
    agent_mib: list[float] = field(default_factory=list)
    server_mib: list[float] = field(default_factory=list)
    free_tokens: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    text_speeds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    burst_tokens: int = 0


class Rounds:
    """Measures round by round into `measured`. parts: names of PARTS; requests: of each kind in each run."""

    PARTS = ("classify", "extract", "generate", "idle", "burst", "memory")

    def __init__(self, sides: Sides, parts: Iterable[str], *, requests: int) -> None:
        self._sides = sides
        self._requests = requests
        self._parts = [part for part in self.PARTS if part in set(parts)]
        self._constant_tokens = {kind: sides.server.count_tokens(constant_text(kind)) for kind in Kind}
        self._label = ""
        self.measured = Measured()

    def run(self, number: int, of: int) -> None:
        """One round. Raises what a side raises for an answer that is not as it must be."""
        self._label = f"round {number + 1}/{of}"
        both: list[Side] = [self._sides.agent, self._sides.server]
        # The order alternates: the machine gets warmer, or busier, within a round.
        if number % 2:
            both.reverse()
        seed = f"round {number}"
        for part in self._parts:
            match part:
                case "classify":
                    self._classify(both, seed)
                case "extract":
                    self._extract(both, seed)
                case "generate":
                    self._generate(both, seed)
                case "idle":
                    self.measured.latencies.append(self._idle_latency())
                case "burst":
                    self.measured.bursts.append(self._cold_burst(f"Site {number}. {_BURST_RULES}"))
                case "memory":
                    self._memory(seed)

    def _classify(self, both: list[Side], seed: str) -> None:
        self._warm_up(both, Kind.CLASSIFY, seed)
        for width in WIDTHS:
            for side in both:
                if side is self._sides.server or width in {1, CLIENTS}:
                    self._ask(side, Kind.CLASSIFY, width, seed)
        run = self.measured.runs[self._sides.agent.name, Kind.CLASSIFY, CLIENTS][-1]
        self._show("llama-bench")
        rate = self._sides.limits.prefill(
            self._sides.programs,
            self._sides.model,
            batch_tokens=BATCH_TOKENS,
            shared_tokens=self._constant_tokens[Kind.CLASSIFY],
        )
        self.measured.prefill_limit.append(rate / run.computed_tokens)
        self._warm_up(both, Kind.CLASSIFY_SHARED, seed)
        for side in both:
            self._ask(side, Kind.CLASSIFY_SHARED, CLIENTS, seed)

    def _extract(self, both: list[Side], seed: str) -> None:
        self._warm_up(both, Kind.EXTRACT, seed)
        for width in (CLIENTS, 1):
            for side in both:
                answers = self._ask(side, Kind.EXTRACT, width, seed).answers
                # The server counts the tokens of both sides' texts.
                count = sum(self._sides.server.count_tokens(free_text(answer)) for answer in answers)
                self.measured.free_tokens[side.name, width].append(count / len(answers))
            questions = readings(CLIENTS, seed=f"{seed} text")
            written = ask_all(self._sides.agent, Kind.GENERATE, questions, clients=width)
            self.measured.text_speeds[width].append(written.tokens_per_s)

    def _generate(self, both: list[Side], seed: str) -> None:
        self._warm_up(both, Kind.GENERATE, seed)
        for side in both:
            self._ask(side, Kind.GENERATE, CLIENTS, seed)
        run = self.measured.runs[self._sides.agent.name, Kind.GENERATE, CLIENTS][-1]
        self._show("llama-batched-bench")
        self.measured.generate_limit.append(
            self._sides.limits.batched(
                self._sides.programs,
                self._sides.model,
                shared_tokens=self._constant_tokens[Kind.GENERATE],
                own_tokens=round(run.computed_tokens),
                written_tokens=GENERATED_TOKENS,
            )
        )

    def _idle_latency(self) -> Latency:
        """Raises ValueError if more than SHORT_TOKENS of a prompt were computed."""
        self._show("idle agent")
        answers_ms, queued_ms = [], []
        pause = threading.Event()
        for number in range(_IDLE_REQUESTS):
            pause.wait(_IDLE_PAUSE_S)
            value = {"pump": number, "reading": f"{number % 9}.4 mm/s, {60 + number % 30} °C"}
            began = time.perf_counter()
            reply = self._sides.agent.client.ask(task_name(Kind.CLASSIFY), value)
            answers_ms.append((time.perf_counter() - began) * 1000)
            queued_ms.append(reply["timing"]["queued_ms"])
            computed = reply["usage"]["prompt_tokens"] - reply["usage"]["cached_tokens"]
            # The first request of a task computes its prefix.
            if number and computed > SHORT_TOKENS:
                raise ValueError(f"{computed} tokens were computed, more than {SHORT_TOKENS}")
        return Latency(statistics.median(answers_ms), statistics.median(queued_ms))

    def _cold_burst(self, words: str) -> ColdBurst:
        """BURST requests at once, right after the reload that brings a task whose prompts begin with these words."""
        self._show("cold burst")
        agent = self._sides.agent
        tokens = self.measured.burst_tokens = self._sides.server.count_tokens(chatml(words, ""))
        agent.add_task(task_table("burst", kind="classify", system=words, labels=list(LABELS)))
        replies, _ = in_parallel(lambda number: agent.client.ask("burst", f"reading {number}"), range(BURST), BURST)
        cached = [min(reply["usage"]["cached_tokens"], tokens) for reply in replies]
        # At the edge between constant text and input a token may differ.
        shared = sum(count >= tokens - 3 for count in cached)
        computed = sum(tokens - count for count in cached)
        # If all found it, the engine had computed it once before.
        return ColdBurst(shared, computed + tokens if shared == BURST else computed)

    def _memory(self, seed: str) -> None:
        self._show("memory")
        repacked_mib = self._sides.agent.health()["worker"]["repacked_mb"] / 1.048576
        # The server repacks the same weights with the same library.
        self.measured.agent_mib.append(self._peak_mib(self._sides.agent, seed) - repacked_mib)
        self.measured.server_mib.append(self._peak_mib(self._sides.server, seed) - repacked_mib)

    def _peak_mib(self, side: Side, seed: str) -> float:
        """The process's own memory while CLIENTS requests are under way."""
        questions = readings(CLIENTS, seed=f"{seed} memory")
        asking = threading.Thread(
            target=ask_all, args=(side, Kind.GENERATE, questions), kwargs={"clients": CLIENTS}, daemon=True
        )
        asking.start()
        peak = 0.0
        while asking.is_alive():
            peak = max(peak, own_memory_mib(side.pid))
            asking.join(0.1)
        return peak

    def _warm_up(self, sides: list[Side], kind: Kind, seed: str) -> None:
        """Each side sees the constant text of this kind, once for each client."""
        for side in sides:
            self._show(f"{kind} {side.name} warms up")
            ask_all(side, kind, readings(2 * CLIENTS, seed=f"warm-up {seed} {kind}"), clients=CLIENTS)

    def _ask(self, side: Side, kind: Kind, clients: int, seed: str) -> Run:
        self._show(f"{kind} {side.name} {clients}")
        # The agent gets the same questions alone and in batches. The server, which keeps whole prompts, does not.
        shared_seed = side is self._sides.agent or clients == CLIENTS
        questions = readings(self._requests, seed=f"{seed} {kind}" if shared_seed else f"{seed} {kind} {clients}")
        run = ask_all(side, kind, questions, clients=clients, constant_tokens=self._constant_tokens[kind])
        self.measured.runs[side.name, kind, clients].append(run)
        return run

    def _show(self, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self._label} {what}", end="", file=sys.stderr, flush=True)


def ask_all(side: Side, kind: Kind, questions: Sequence[Reading], *, clients: int, constant_tokens: int = 0) -> Run:
    """Raises ValueError for an answer that `check_answer` refuses, and what the side raises."""

    def ask(reading: Reading) -> Answer:
        answer = side.ask(kind, reading)
        check_answer(kind, answer, constant_tokens=constant_tokens)
        return answer

    return Run(*in_parallel(ask, questions, clients))


def own_memory_mib(pid: int) -> float:
    """Memory without pages of files, of a process and its descendants. Raises psutil.NoSuchProcess, OSError."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    texts = [Path(f"/proc/{process.pid}/status").read_text("ascii", "replace") for process in family]
    return sum(int(kilobytes) for text in texts for kilobytes in _OWN_MEMORY.findall(text)) / 1024


def document(measured: Measured) -> list[dict[str, Any]]:
    """Every run, for further computations."""
    return [
        {
            "side": side,
            "kind": kind.value,
            "clients": clients,
            "round": number,
            "requests": len(run.answers),
            "requests_per_s": run.requests_per_s,
            "tokens_per_s": run.tokens_per_s,
            "computed_tokens_per_request": run.computed_tokens,
        }
        for (side, kind, clients), runs in measured.runs.items()
        for number, run in enumerate(runs)
    ]
