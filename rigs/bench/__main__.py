"""Requests per second through the whole agent by how many clients ask at once, over the embedded broker.

With --against TREE, another checkout with a .venv of its own is measured, too: both agents are loaded, and take turns
within each round. Absolute figures mean little on a shared machine; the ratios within a round count, with their spread:
of this tree to the other one, else to the first number of clients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rigs.bench.agent import AgentSide, UnexpectedReply, running_agent, workload_tasks
from rigs.bench.rounds import Run, ask_all
from rigs.bench.verdict import ratios
from rigs.bench.workload import Kind, readings
from rigs.machine import model_path

KINDS = (Kind.CLASSIFY, Kind.EXTRACT, Kind.GENERATE)
Key = tuple[str, Kind, int]


@dataclass(frozen=True)
class Throughput:
    """Of all rounds: the median of requests per second, and of the ratio with its lowest and highest."""

    side: str
    kind: Kind
    clients: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    cached_share: float


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rigs.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a bundle or a .gguf")
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout, with .venv/bin/edge-agent")
    parser.add_argument("--clients", default="1,8", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    widths = [int(width) for width in options.clients.split(",")]
    programs = {"this tree": [sys.executable, "-m", "edge_agent"]}
    if options.against is not None:
        programs[str(options.against)] = [str(options.against.absolute() / ".venv" / "bin" / "edge-agent")]
    runs: dict[Key, list[Run]] = defaultdict(list)
    with ExitStack() as stack:
        sides = []
        for name, program in programs.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            engine = {"max_active": max(widths)}
            agent = running_agent(options.model, folder, workload_tasks(), engine, program=program, name=name)
            sides.append(stack.enter_context(agent))
        try:
            for number in range(options.rounds):
                # The order alternates: the machine gets warmer, or busier, within a round.
                _measure(sides[:: -1 if number % 2 else 1], widths, options.requests, number, runs)
        except (UnexpectedReply, ValueError) as error:
            raise SystemExit(f"\nan answer is not as it must be: {error}") from error
    measured = [throughput(key, runs, widths[0], list(programs)) for key in runs]
    if options.json:
        print(json.dumps([asdict(row) for row in measured], indent=2))
    else:
        print(table(measured))
    return 0


def _measure(sides: list[AgentSide], widths: list[int], requests: int, number: int, runs: dict[Key, list[Run]]) -> None:
    for kind in KINDS:
        for width in widths:
            for side in sides:
                if sys.stderr.isatty():
                    print(f"\rround {number + 1} {kind} {width} {side.name}   ", end="", file=sys.stderr)
                questions = readings(requests, seed=f"{number} {kind} {width}")
                runs[side.name, kind, width].append(ask_all(side, kind, questions, clients=width))


def throughput(key: Key, runs: dict[Key, list[Run]], first_width: int, sides: list[str]) -> Throughput:
    side, kind, clients = key
    reference = (sides[1], kind, clients) if len(sides) > 1 else (side, kind, first_width)
    rates = [run.requests_per_s for run in runs[key]]
    to_reference = ratios(rates, [run.requests_per_s for run in runs[reference]])
    answers = [answer for run in runs[key] for answer in run.answers]
    latencies_ms = [answer.latency_ms for answer in answers if answer.latency_ms is not None]
    return Throughput(
        side=side,
        kind=kind,
        clients=clients,
        requests_per_s=round(statistics.median(rates), 3),
        p50_ms=round(statistics.median(latencies_ms), 1),
        p95_ms=round(statistics.quantiles(latencies_ms, n=20)[-1], 1),
        ratio=round(statistics.median(to_reference), 3),
        lowest_ratio=round(min(to_reference), 3),
        highest_ratio=round(max(to_reference), 3),
        cached_share=round(
            sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers), 3
        ),
    )


def table(rows: list[Throughput]) -> str:
    width = max(len(row.side) for row in rows)
    names = f"{'kind':8} {'clients':>7} {'requests/s':>10} {'p50 ms':>8} {'p95 ms':>8} {'ratio':>6} spread      cached"
    lines = [f"{'agent':{width}} {names}"]
    for row in rows:
        spread = f"{row.lowest_ratio:.2f}–{row.highest_ratio:.2f}"
        lines.append(
            f"{row.side:{width}} {row.kind:8} {row.clients:>7} {row.requests_per_s:>10.2f} {row.p50_ms:>8.1f} "
            f"{row.p95_ms:>8.1f} {row.ratio:>6.2f} {spread:10} {row.cached_share:>6.0%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
