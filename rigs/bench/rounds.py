"""The rounds of the comparison: all sides loaded, one at work at a time, every figure kept by round."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rigs.bench.agent_side import AgentSide
from rigs.bench.asking import Run, Side, ask_all, warm_up
from rigs.bench.example_server import PythonServer
from rigs.bench.idle import ColdBurst, Latency, cold_burst, idle_latency
from rigs.bench.llama_server import LlamaServer
from rigs.bench.llama_tools import batched_tokens_per_s, prefill_tokens_per_s
from rigs.bench.machine import CpuTimes, anonymous_mb
from rigs.bench.sizes import BATCH_TOKENS, CLIENTS
from rigs.bench.workload import GENERATED_TOKENS, Kind, chatml, constant_text, readings

WIDTHS = (CLIENTS, 1, 2, 4)
_IDLE_REQUESTS = 25
# Makes the prefix of a new task about 300 tokens.
_BURST_RULES = "Compare the flow with the pressure before you judge. Say what a technician would say. " * 16


@dataclass(frozen=True)
class Sides:
    agent: AgentSide
    server: LlamaServer
    example: PythonServer | None
    programs: Path
    model: Path


@dataclass
class Measured:
    """By round: runs by side, kind and clients, and what was measured beside them. Memory in MiB.

    text_speeds: by clients, tokens per second at which the agent writes texts.
    """

    runs: dict[tuple[str, Kind, int], list[Run]] = field(default_factory=lambda: defaultdict(list))
    prefill_limit: list[float] = field(default_factory=list)
    generate_limit: list[float] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    bursts: list[ColdBurst] = field(default_factory=list)
    agent_mb: list[float] = field(default_factory=list)
    server_mb: list[float] = field(default_factory=list)
    free_tokens: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    text_speeds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    constant_tokens: dict[Kind, int] = field(default_factory=dict)
    burst_tokens: int = 0
    others_cpus: list[float] = field(default_factory=list)


class Rounds:
    """Runs them one by one into `measured`. parts: names of PARTS; requests: of each kind in each run."""

    PARTS = ("classify", "extract", "generate", "idle", "burst", "memory")

    def __init__(self, sides: Sides, parts: Iterable[str], *, requests: int) -> None:
        self._sides = sides
        self._requests = requests
        self._parts = frozenset(parts)
        self.measured = Measured()
        self.measured.constant_tokens = {kind: sides.server.count_tokens(constant_text(kind)) for kind in Kind}
        self._label = ""

    def run(self, number: int, of: int) -> None:
        """One round. Raises what a side raises for an answer that is not as it must be."""
        self._label = f"round {number + 1}/{of}"
        sides, seed = self._sides, f"round {number}"
        both: list[Side] = [sides.agent, sides.server]
        # Who goes first changes, for the machine gets warmer, or busier, within a round.
        both = both[:: -1 if number % 2 else 1]
        if "classify" in self._parts:
            self._classify(both, seed)
        if "extract" in self._parts:
            self._extract(both, seed)
        if "generate" in self._parts:
            self._generate(both, seed)
        if "idle" in self._parts:
            self._tell("idle agent")
            self.measured.latencies.append(idle_latency(sides.agent, requests=_IDLE_REQUESTS))
        if "memory" in self._parts:
            self._tell("memory")
            repacked_mib = sides.agent.health()["worker"]["repacked_mb"] / 1.048576
            agent_mb = self._peak_mb(sides.agent, sides.agent.process.process.pid, seed)
            self.measured.agent_mb.append(agent_mb - repacked_mib)
            # The same library repacks the same weights of the same file.
            server_mb = self._peak_mb(sides.server, sides.server.server.process.pid, seed)
            self.measured.server_mb.append(server_mb - repacked_mib)
        if "burst" in self._parts:
            self._tell("cold burst")
            words = f"Site {number}. {_BURST_RULES}"
            self.measured.burst_tokens = sides.server.count_tokens(chatml(words, ""))
            self.measured.bursts.append(
                cold_burst(sides.agent, words=words, constant_tokens=self.measured.burst_tokens)
            )

    def _classify(self, both: list[Side], seed: str) -> None:
        self._warm_up(both, Kind.CLASSIFY, seed)
        for width in WIDTHS:
            for side in both:
                if side is self._sides.server or width in {1, CLIENTS}:
                    self._ask(side, Kind.CLASSIFY, width, seed)
        run = self.measured.runs[self._sides.agent.name, Kind.CLASSIFY, CLIENTS][-1]
        self._tell("llama-bench")
        rate = prefill_tokens_per_s(
            self._sides.programs,
            self._sides.model,
            batch_tokens=BATCH_TOKENS,
            shared_tokens=self.measured.constant_tokens[Kind.CLASSIFY],
        )
        self.measured.prefill_limit.append(rate / run.computed_tokens)
        self._warm_up(both, Kind.CLASSIFY_SHARED, seed)
        for side in both:
            self._ask(side, Kind.CLASSIFY_SHARED, CLIENTS, seed)

    def _extract(self, both: list[Side], seed: str) -> None:
        everybody = both if self._sides.example is None else [*both, self._sides.example]
        self._warm_up(everybody, Kind.EXTRACT, seed)
        for width in (CLIENTS, 1):
            for side in everybody if width == CLIENTS else both:
                self._ask(side, Kind.EXTRACT, width, seed)
                answers = self.measured.runs[side.name, Kind.EXTRACT, width][-1].answers
                count = sum(self._sides.server.count_text_tokens(answer) for answer in answers)
                self.measured.free_tokens[side.name, width].append(count / len(answers))
            questions = readings(CLIENTS, seed=f"{seed} text")
            written = ask_all(self._sides.agent, Kind.GENERATE, questions, clients=width)
            self.measured.text_speeds[width].append(written.tokens_per_s)

    def _generate(self, both: list[Side], seed: str) -> None:
        everybody = both if self._sides.example is None else [*both, self._sides.example]
        self._warm_up(everybody, Kind.GENERATE, seed)
        for side in everybody:
            self._ask(side, Kind.GENERATE, CLIENTS, seed)
        self._tell("llama-batched-bench")
        run = self.measured.runs[self._sides.agent.name, Kind.GENERATE, CLIENTS][-1]
        own = round(run.computed_tokens)
        self.measured.generate_limit.append(
            batched_tokens_per_s(
                self._sides.programs,
                self._sides.model,
                shared_tokens=self.measured.constant_tokens[Kind.GENERATE],
                own_tokens=own,
                written_tokens=GENERATED_TOKENS,
            )
        )

    def _warm_up(self, sides: list[Side], kind: Kind, seed: str) -> None:
        for side in sides:
            self._tell(f"{kind} {side.name} warms up")
            warm_up(side, kind, clients=CLIENTS, seed=f"{seed} {kind}")

    def _ask(self, side: Side, kind: Kind, clients: int, seed: str) -> None:
        self._tell(f"{kind} {side.name} {clients}")
        # The agent is asked the same alone and in batches. A server that keeps whole prompts must not see one again.
        shared_seed = side is self._sides.agent or clients == CLIENTS
        questions = readings(self._requests, seed=f"{seed} {kind}" if shared_seed else f"{seed} {kind} {clients}")
        # The example server does not tell how much it had in its cache.
        constant = 0 if side is self._sides.example else self.measured.constant_tokens[kind]
        before = CpuTimes.now()
        run = ask_all(side, kind, questions, clients=clients, constant_tokens=constant)
        self.measured.others_cpus.append(CpuTimes.now().others_since(before))
        self.measured.runs[side.name, kind, clients].append(run)

    def _peak_mb(self, side: Side, pid: int, seed: str) -> float:
        """While CLIENTS requests are under way."""
        questions = readings(CLIENTS, seed=f"{seed} memory")
        asking = threading.Thread(
            target=ask_all, args=(side, Kind.GENERATE, questions), kwargs={"clients": CLIENTS}, daemon=True
        )
        asking.start()
        peak = 0.0
        while asking.is_alive():
            peak = max(peak, anonymous_mb(pid))
            asking.join(0.1)
        return peak

    def _tell(self, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self._label} {what}", end="", file=sys.stderr, flush=True)


def document(measured: Measured) -> list[dict[str, Any]]:
    """Every run, for those who want to reckon with it themselves."""
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
