"""Requests per second through the whole agent, by how many clients ask at once, over the embedded broker.

Absolute times mean little on a shared machine: the widths take turns within each round, and what counts is the ratio to
one client, with its spread over the rounds.
usage: python -m rigs.bench MODEL [--clients 1,4,8] [--rounds 5] [--requests 16] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rigs.bench.agent_side import NotOkError, running_agent, task_name, workload_tasks
from rigs.bench.asking import in_parallel
from rigs.bench.figures import ratios
from rigs.bench.workload import Kind, readings

KINDS = (Kind.CLASSIFY, Kind.GENERATE)


@dataclass(frozen=True)
class Measurement:
    """Of all rounds: the median of requests per second and of the ratio to the first width, with lowest and highest."""

    task: str
    clients: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    cached_share: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a bundle or a .gguf")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    widths = [int(width) for width in options.clients.split(",")]
    rates: dict[tuple[Kind, int], list[float]] = defaultdict(list)
    replies: dict[tuple[Kind, int], list[dict[str, Any]]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_agent(options.model, Path(folder), workload_tasks(), {"max_active": max(widths)}) as agent,
    ):
        for number in range(options.rounds):
            for kind in KINDS:
                for width in widths:
                    if sys.stderr.isatty():
                        print(f"round {number + 1}/{options.rounds} {kind} {width}   ", end="\r", file=sys.stderr)
                    questions = readings(options.requests, seed=f"{number} {kind} {width}")
                    try:
                        got, seconds = in_parallel(partial(agent.client.ask, task_name(kind)), questions, width)
                    except NotOkError as error:
                        raise SystemExit(f"\n{error}") from error
                    rates[kind, width].append(options.requests / seconds)
                    replies[kind, width] += got
    measured = [_measurement(key, rates[key], rates[key[0], widths[0]], replies[key]) for key in rates]
    if options.json:
        print(json.dumps([asdict(row) for row in measured], indent=2))
        return 0
    print(f"{'task':8} {'clients':>7} {'requests/s':>10} {'p50 ms':>8} {'p95 ms':>8} {'ratio':>6}  spread       shared")
    for row in measured:
        spread = f"{row.lowest_ratio:.2f}–{row.highest_ratio:.2f}"
        print(
            f"{row.task:8} {row.clients:>7} {row.requests_per_s:>10.2f} {row.p50_ms:>8.1f} {row.p95_ms:>8.1f} "
            f"{row.ratio:>6.2f}  {spread:11} {row.cached_share:>6.0%}"
        )
    return 0


def _measurement(
    key: tuple[Kind, int], rates: list[float], first_width: list[float], replies: list[dict[str, Any]]
) -> Measurement:
    kind, clients = key
    to_first = ratios(rates, first_width)
    latencies = [reply["timing"]["total_ms"] for reply in replies]
    cached, prompt = (sum(reply["usage"][field] for reply in replies) for field in ("cached_tokens", "prompt_tokens"))
    return Measurement(
        task=kind.value,
        clients=clients,
        requests_per_s=round(statistics.median(rates), 3),
        p50_ms=round(statistics.median(latencies), 1),
        p95_ms=round(statistics.quantiles(latencies, n=20)[-1], 1),
        ratio=round(statistics.median(to_first), 2),
        lowest_ratio=round(min(to_first), 2),
        highest_ratio=round(max(to_first), 2),
        cached_share=round(cached / prompt, 3),
    )


if __name__ == "__main__":
    sys.exit(main())
