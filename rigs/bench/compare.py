"""The agent against llama-server and llama.cpp's own benchmarks, on one workload.

All sides get the same model file, threads and context, and are loaded at the same time; they take turns within each
round. The ratios within a round count: median, lowest and highest of all rounds. The first run fetches and builds
llama.cpp's programs, which takes some minutes. Exit code 1 if a target is missed or an answer is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from edge_agent.models.bundle import MODEL_FILE
from rigs.bench.agent import UnexpectedReply, running_agent, workload_tasks
from rigs.bench.rounds import Rounds, Sides, document
from rigs.bench.server import PROGRAMS, LlamaServer
from rigs.bench.verdict import rows, table
from rigs.bench.workload import CLIENTS, CONTEXT_TOKENS, THREADS
from rigs.machine import model_path
from tests.helpers.llama_sources import build_llama_cpp

ENGINE = {"threads": THREADS, "prefill_threads": THREADS, "max_active": CLIENTS, "context_tokens": CONTEXT_TOKENS}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rigs.bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a bundle or a .gguf with a ChatML template")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=32, help="of each kind in each run (%(default)s)")
    parser.add_argument("--parts", default=",".join(Rounds.PARTS), help=f"of {', '.join(Rounds.PARTS)}")
    parser.add_argument("--programs", type=Path, help="a folder with llama.cpp's programs, instead of building them")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="keeps what was built (%(default)s)")
    parser.add_argument("--json", action="store_true", help="rows and all runs as JSON")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(Rounds.PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))} (choose from {', '.join(Rounds.PARTS)})")
    model = (options.model / MODEL_FILE if options.model.is_dir() else options.model).absolute()
    options.work.mkdir(parents=True, exist_ok=True)
    programs = options.programs or build_llama_cpp(options.work, PROGRAMS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(closing(LlamaServer(programs.absolute(), model, folder)))
        agent = stack.enter_context(running_agent(options.model, folder, workload_tasks(), ENGINE))
        rounds = Rounds(Sides(agent, server, programs.absolute(), model), parts, requests=options.requests)
        try:
            for number in range(options.rounds):
                rounds.run(number, options.rounds)
        except (UnexpectedReply, ValueError) as error:
            raise SystemExit(f"\nan answer is not as it must be: {error}") from error
    found = rows(rounds.measured)
    if options.json:
        figures = {"rows": [row.document() for row in found], "runs": document(rounds.measured)}
        print(json.dumps(figures, indent=2, ensure_ascii=False))
    else:
        print(table(found))
    return 1 if any(row.is_met is False for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
