"""Requests per second through the whole agent, by the number of clients that ask at once, over the embedded broker.

--against TREE compares with another checkout, which has a .venv of its own; --beside MODEL with another model;
--engine KEY=N compares a setting of [engine] with the defaults. A round then has four turns in the order A B B A: each
loads one agent alone, so that the two share neither memory nor cores, and a machine that slows down steadily slows both
alike. A ratio is the speed of A by that of B within a round; against itself a tree has 1. The speed of a shared machine
drifts by a third within seconds, CPU time included, so many short rounds say more than few long ones.

Exit code 1 if the memory beyond the weights exceeds its limit.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rigs.bench.agent import MAX_MIB, MAX_MIB_EXTRACT, UnexpectedReply, running_agent, workload_tasks
from rigs.bench.asking import ask_all
from rigs.bench.figures import Figures
from rigs.bench.workload import Kind, readings
from rigs.machine import cpu_s, held_mib, model_path, parser_of


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    python: str
    model: Path
    engine: Mapping[str, int]
    step_times: dict[Path, bytes] = field(default_factory=dict)
    """What its first start measured, by file below the state folder, so that later turns take the same steps."""


@dataclass(slots=True)
class Cost:
    """What the requests of one kind and number of clients took, in all turns of a side in a round."""

    seconds: float = 0.0
    cpu_s: float = 0.0


Costs = dict[tuple[Kind, int], Cost]


def main() -> int:
    parser = parser_of("rigs.bench", __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a bundle or a .gguf")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--against", type=Path, metavar="TREE", help="another checkout, with .venv/bin/python")
    other.add_argument("--beside", type=model_path, metavar="MODEL", help="another model")
    other.add_argument("--engine", type=_setting, metavar="KEY=N", help="a setting of [engine], against the defaults")
    parser.add_argument("--kinds", nargs="+", type=Kind, default=list(Kind))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8], help="default: 1 8")
    parser.add_argument("--rounds", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=16, help="of each kind in each turn (default: %(default)s)")
    options = parser.parse_args()
    figures, sides = Figures(), _sides(options)
    try:
        for number in range(options.rounds):
            _round(figures, sides, options, number)
    except (UnexpectedReply, ValueError) as error:
        raise SystemExit(f"\nan answer is not as it must be: {error}") from error
    print(figures.table())
    return 0 if figures.are_met else 1


def _sides(options: argparse.Namespace) -> list[Side]:
    """The side to measure and, if there is one, the other to compare it with."""
    own = Side("this tree", sys.executable, options.model, {"max_active": max(options.clients)})
    if options.against is not None:
        python = str(options.against.absolute() / ".venv" / "bin" / "python")
        return [own, Side(str(options.against), python, own.model, own.engine)]
    if options.beside is not None:
        return [
            Side(str(options.model), own.python, own.model, own.engine),
            Side(str(options.beside), own.python, options.beside, own.engine),
        ]
    if options.engine is not None:
        key, number = options.engine
        return [
            Side(f"{key}={number}", own.python, own.model, {**own.engine, key: number}),
            Side("defaults", own.python, own.model, own.engine),
        ]
    return [own]


def _setting(text: str) -> tuple[str, int]:
    key, _, number = text.partition("=")
    return key, int(number)


def _round(figures: Figures, sides: Sequence[Side], options: argparse.Namespace, number: int) -> None:
    costs: list[Costs] = [{} for _ in sides]
    order = (0, 1, 1, 0) if len(sides) > 1 else (0,)
    for turn, place in enumerate(order):
        side = sides[place]
        if sys.stderr.isatty():
            print(f"\r\x1b[Kround {number + 1}, turn {turn + 1}: {side.name}", end="", file=sys.stderr, flush=True)
        if not side.step_times:
            side.step_times.update(sides[0].step_times)
        # The turns of a round ask the same.
        _turn(figures, side, options, f"{number}", costs[place], has_limit=not place)
    if len(sides) > 1:
        own, other = costs
        for (kind, width), cost in own.items():
            theirs = other[kind, width]
            figures.note(f"{kind} of {width} clients: ratio", theirs.seconds / cost.seconds)
            figures.note(f"  ratio of CPU time, {kind} of {width}", theirs.cpu_s / cost.cpu_s)


def _turn(
    figures: Figures, side: Side, options: argparse.Namespace, seed: str, costs: Costs, *, has_limit: bool
) -> None:
    """One agent alone, from its start to its end."""
    with tempfile.TemporaryDirectory() as name:
        folder, held = Path(name), 0.0
        for path, content in side.step_times.items():
            (folder / "state" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "state" / path).write_bytes(content)
        tasks = workload_tasks(options.kinds)
        with running_agent(side.model, folder, tasks, side.engine, python=side.python, name=side.name) as agent:
            for kind in options.kinds:
                warm_up = readings(max(options.clients), seed=f"warm-up {seed} {kind}")
                ask_all(agent, kind, warm_up, clients=max(options.clients))
                for width in options.clients:
                    before_s = cpu_s(agent.pid)
                    run = ask_all(agent, kind, readings(options.requests, seed=f"{seed} {kind} {width}"), clients=width)
                    cost = costs.setdefault((kind, width), Cost())
                    cost.seconds += run.seconds
                    cost.cpu_s += cpu_s(agent.pid) - before_s
                    held = max(held, held_mib(agent.pid))
                    latencies_ms = [answer.latency_ms for answer in run.answers if answer.latency_ms is not None]
                    figures.note(f"{kind} of {width} clients: {side.name}", run.requests_per_s, "1/s")
                    figures.note(f"  p50, {kind} of {width}, {side.name}", statistics.median(latencies_ms), "ms")
            repacked_mib = agent.repacked_mib()
        for path in (folder / "state").rglob("calibration.json"):
            side.step_times[path.relative_to(folder / "state")] = path.read_bytes()
    limit = MAX_MIB_EXTRACT if Kind.EXTRACT in options.kinds else MAX_MIB
    figures.note(
        f"memory beyond the weights: {side.name}", held - repacked_mib, "MiB", at_most=limit if has_limit else None
    )


if __name__ == "__main__":
    sys.exit(main())
