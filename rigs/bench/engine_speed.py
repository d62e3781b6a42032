"""The engine alone, of this checkout beside an older one: what an answer costs, in turns on one machine.

Both workers are asked over their pipes, with one thread and unmeasured steps, so that both take the same steps. Each
round asks each kind of each worker, and the order changes every round. The cost is CPU time: other work on the machine
changes it little. What counts is the ratio with its spread; above 1 this checkout is faster.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from psutil import Process

from edge_agent.board.process import process_memory
from edge_agent.core.environment import library_environment
from edge_agent.requests.templates import constant_head
from rigs.bench.figures import Figures
from rigs.bench.workload import (
    EXTRACT_TOKENS,
    GENERATED_TOKENS,
    LABELS,
    SCHEMA,
    SYSTEM,
    Kind,
    Reading,
    readings,
    user_text,
)
from rigs.machine import ROOT, model_path, parser_of


class Worker:
    """A worker process of one checkout, with the model loaded."""

    def __init__(self, checkout: Path, model: Path, *, clients: int, kinds: list[Kind]) -> None:
        self._ids = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edge_agent.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **library_environment(), "PYTHONPATH": str(checkout)},
        )
        prefixes = [{"task": kind, "system": SYSTEM, "user_head": constant_head(kind.template)} for kind in kinds]
        self._send(
            type="load",
            model_path=str(model),
            settings={"max_active": clients, "threads": 1, "prefill_threads": 1},
            tasks=prefixes,
        )
        while (event := self._read())["type"] != "ready":
            if event["type"] == "load_failed":
                raise SystemExit(f"{checkout}: {event['message']}")
        self.repacked_mib: float = event["repacked_mib"] or 0.0
        self.load_cpu_s = self._cpu_s()

    def cost_s(self, kind: Kind, questions: list[Reading], clients: int) -> float:
        """CPU seconds of an answer, with this many requests in the worker at any time. Raises ValueError."""
        waiting, running, began = list(questions), 0, self._cpu_s()
        while waiting or running:
            while waiting and running < clients:
                self._run(kind, waiting.pop(0))
                running += 1
            event = self._read()
            if event["type"] in {"failed", "refused"}:
                raise ValueError(event["message"])
            running -= event["type"] == "finished"
        return (self._cpu_s() - began) / len(questions)

    def anonymous_mib(self) -> float:
        """Memory that is no file's, without the weights in the layout of fast kernels."""
        memory = process_memory(self._process.pid)
        assert memory is not None
        return memory.held_mib - self.repacked_mib

    def _cpu_s(self) -> float:
        times = Process(self._process.pid).cpu_times()
        return times.user + times.system

    def _run(self, kind: Kind, reading: Reading) -> None:
        plans: dict[Kind, dict[str, Any]] = {
            Kind.EXTRACT: {"kind": "schema", "schema": SCHEMA},
            Kind.GENERATE: {"kind": "text"},
        }
        self._ids += 1
        self._send(
            type="run",
            id=self._ids,
            task=kind,
            messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": user_text(kind, reading)}],
            plan=plans.get(kind, {"kind": "labels", "labels": LABELS}),
            max_tokens=EXTRACT_TOKENS if kind is Kind.EXTRACT else GENERATED_TOKENS,
        )

    def _send(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()


def main() -> int:
    parser = parser_of("rigs.bench.engine_speed", __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL.gguf")
    parser.add_argument("--other", type=Path, default=ROOT, help="the checkout to compare with")
    parser.add_argument("--rounds", type=int, default=8, help="default: %(default)s, after one that warms up")
    parser.add_argument("--requests", type=int, default=8, help="per round, kind and number of clients")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8], help="default: 1 8")
    parser.add_argument("--kinds", nargs="+", type=Kind, default=list(Kind))
    options = parser.parse_args()
    figures = Figures()
    with ExitStack() as stack:
        other, own = (
            stack.enter_context(
                Worker(checkout, options.model.absolute(), clients=max(options.clients), kinds=options.kinds)
            )
            for checkout in (options.other, ROOT)
        )
        names = {other: "other", own: "this checkout"}
        for worker, name in names.items():
            figures.note(f"load: {name}", worker.load_cpu_s, "CPU s")
            figures.note(f"memory at the start: {name}", worker.anonymous_mib(), "MiB")
        for number in range(options.rounds + 1):
            for kind, width in itertools.product(options.kinds, options.clients):
                questions = readings(options.requests, seed=f"{number} {kind} {width}")
                order = (other, own) if number % 2 else (own, other)
                costs = {worker: worker.cost_s(kind, questions, width) for worker in order}
                if not number:
                    continue
                for worker, name in names.items():
                    figures.note(f"{kind} of {width} clients: {name}", costs[worker], "CPU s")
                figures.note(f"{kind} of {width} clients: ratio", costs[other] / costs[own])
        for worker, name in names.items():
            figures.note(f"memory at the end: {name}", worker.anonymous_mib(), "MiB")
    print(figures.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
