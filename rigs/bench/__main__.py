"""Requests per second through the whole agent by how many clients ask at once, over the embedded broker.

--against TREE measures another checkout, with a .venv of its own, beside this one; --beside MODEL another model;
--engine KEY=N this model with a setting of [engine] beside the defaults. Both agents are loaded, and take turns within
each round. The ratios within a round count, with their spread. Exit code 1 if the memory beyond the weights exceeds its
limit, which is higher with an `extract` task.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rigs.bench.agent import AgentSide, UnexpectedReply, running_agent, workload_tasks
from rigs.bench.asking import ask_all, peak_memory_mib
from rigs.bench.figures import Figures
from rigs.bench.workload import Kind, readings
from rigs.machine import model_path, parser_of

MAX_MIB, MAX_MIB_EXTRACT = 192.0, 235.0


def main() -> int:
    parser = parser_of("rigs.bench", __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a bundle or a .gguf")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--against", type=Path, metavar="TREE", help="another checkout, with .venv/bin/edge-agent")
    other.add_argument("--beside", type=model_path, metavar="MODEL", help="another model")
    other.add_argument("--engine", type=_setting, metavar="KEY=N", help="of the first of two agents")
    parser.add_argument("--kinds", nargs="+", type=Kind, default=list(Kind))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8], help="default: 1 8")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=16, help="of each kind in each run (default: %(default)s)")
    options = parser.parse_args()
    program, model, engine = [sys.executable, "-m", "edge_agent"], options.model, {"max_active": max(options.clients)}
    agents = {str(model) if options.beside else "this tree": (program, model, engine)}
    if options.against is not None:
        other_program = [str(options.against.absolute() / ".venv" / "bin" / "edge-agent")]
        agents[str(options.against)] = (other_program, model, engine)
    if options.beside is not None:
        agents[str(options.beside)] = (program, options.beside, engine)
    if options.engine is not None:
        key, number = options.engine
        agents = {f"{key}={number}": (program, model, engine | {key: number}), "defaults": (program, model, engine)}
    figures = Figures()
    with ExitStack() as stack:
        sides = []
        for name, (program, model, engine) in agents.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            tasks = workload_tasks(options.kinds)
            agent = running_agent(model, folder, tasks, engine, program=program, name=name)
            sides.append(stack.enter_context(agent))
        try:
            for number in range(options.rounds):
                _measure(figures, sides, options, number)
        except (UnexpectedReply, ValueError) as error:
            raise SystemExit(f"\nan answer is not as it must be: {error}") from error
        _note_memory(figures, sides[0], options)
    print(figures.table())
    return 0 if figures.are_met else 1


def _setting(text: str) -> tuple[str, int]:
    key, _, number = text.partition("=")
    return key, int(number)


def _measure(figures: Figures, sides: list[AgentSide], options: argparse.Namespace, number: int) -> None:
    for kind in options.kinds:
        rates: dict[str, float] = {}
        for width in options.clients:
            # The order alternates: the machine gets warmer, or busier, within a round.
            for side in sides[:: -1 if number % 2 else 1]:
                if sys.stderr.isatty():
                    print(f"\rround {number + 1} {kind} {width} {side.name}   ", end="", file=sys.stderr)
                questions = readings(options.requests, seed=f"{number} {kind} {width}")
                run = ask_all(side, kind, questions, clients=width)
                latencies_ms = [answer.latency_ms for answer in run.answers if answer.latency_ms is not None]
                rates[side.name] = run.requests_per_s
                figures.note(f"{kind} of {width} clients: {side.name}", run.requests_per_s, "1/s")
                figures.note(f"  p50, {kind} of {width}, {side.name}", statistics.median(latencies_ms), "ms")
            if len(sides) > 1:
                ratio = rates[sides[0].name] / rates[sides[1].name]
                figures.note(f"{kind} of {width} clients: ratio", ratio)


def _note_memory(figures: Figures, side: AgentSide, options: argparse.Namespace) -> None:
    mib = peak_memory_mib(side, options.kinds[-1], max(options.clients), "memory")
    most = MAX_MIB_EXTRACT if Kind.EXTRACT in options.kinds else MAX_MIB
    figures.note("own memory of agent and worker beyond the weights", mib - side.repacked_mib(), "MiB", at_most=most)


if __name__ == "__main__":
    sys.exit(main())
