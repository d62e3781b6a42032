"""The agent against llama-server, llama.cpp's own benchmarks and llama-cpp-python's example server, on one workload.

All get the same model file, threads and context, and are loaded at the same time; one works while the others are idle.
They take turns within each round, and what counts are the ratios within a round: median, lowest and highest of all
rounds. The first time it fetches and builds llama.cpp's programs, which takes some minutes. Ends with 1 if a target is
missed, and with a message for any answer that is not as it must be.
usage: python -m rigs.bench.compare MODEL [--rounds 5] [--requests 32] [--parts classify,…] [--no-example] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from edge_agent.models.bundle import MODEL_FILE
from rigs.bench.agent_side import ENGINE, NotOkError, running_agent, workload_tasks
from rigs.bench.build import build_programs, check_programs, example_server
from rigs.bench.example_server import PythonServer
from rigs.bench.figures import table
from rigs.bench.llama_server import LlamaServer
from rigs.bench.rounds import Rounds, Sides, document
from rigs.bench.verdict import rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a bundle or a .gguf; its chat template is ChatML")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=32, help="of each kind in each run (%(default)s)")
    parser.add_argument("--parts", default=",".join(Rounds.PARTS), help=f"of {', '.join(Rounds.PARTS)}")
    parser.add_argument("--batch-tokens", type=int, help="the agent's engine.batch_tokens; default: as it measures")
    parser.add_argument("--no-example", action="store_true", help="leave out llama-cpp-python's example server")
    parser.add_argument("--binaries", type=Path, help="a folder with llama.cpp's programs, instead of building them")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="keeps what was built (%(default)s)")
    parser.add_argument("--json", action="store_true", help="rows and all runs as JSON")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(Rounds.PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    options.work.mkdir(parents=True, exist_ok=True)
    programs = build_programs(options.work) if options.binaries is None else check_programs(options.binaries)
    example = None if options.no_example else example_server(options.work)
    model = (options.model / MODEL_FILE if options.model.is_dir() else options.model).absolute()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(closing(LlamaServer(programs, model, folder)))
        python_server = None
        if example is not None and {"extract", "generate"} & set(parts):
            python_server = stack.enter_context(closing(PythonServer(example, model, folder)))
        engine = ENGINE if options.batch_tokens is None else {**ENGINE, "batch_tokens": options.batch_tokens}
        agent = stack.enter_context(running_agent(options.model, folder, workload_tasks(), engine))
        rounds = Rounds(Sides(agent, server, python_server, programs, model), parts, requests=options.requests)
        try:
            for number in range(options.rounds):
                rounds.run(number, options.rounds)
        except (NotOkError, ValueError) as error:
            raise SystemExit(f"\nan answer is not as it must be: {error}") from error
        finally:
            if sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr)
    found = rows(rounds.measured)
    if options.json:
        figures = {"rows": [row.document() for row in found], "runs": document(rounds.measured)}
        print(json.dumps(figures, indent=2, ensure_ascii=False))
    else:
        print(table(found))
    return 1 if any(row.is_met is False for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
