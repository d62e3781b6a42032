"""How long a caller waits for a trained model, and how many requests a second eight callers get, over mosquitto.

`python -m rigs.plants.speed BUNDLE` asks the inputs of the bundle's canaries. Broker and clients set TCP_NODELAY.
Exits with 1 if the median at one client is above 8 ms, or if eight get fewer than 500 requests a second. With --large,
llama-server is asked the same with that model, by as many clients; the first run builds it, which takes minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from edge_agent.models.bundle import MODEL_FILE
from edge_agent.tools.demo.broker import free_port
from rigs.bench.figures import Figures
from rigs.bench.server import LlamaServer
from rigs.bench.workload import chatml
from rigs.llama_sources import build_llama_cpp
from rigs.machine import model_path, parser_of, require
from rigs.round_trip import Asker
from tests.helpers.processes import Mosquitto
from tests.helpers.site import running_site, task_table

_CLIENTS = 8
_MOST_MS = 8.0
_LEAST_PER_S = 500.0
_LEAST_RATIO = 30.0


def main() -> int:
    parser = parser_of("rigs.plants.speed", __doc__)
    parser.add_argument("model", metavar="BUNDLE", type=model_path, help="of `edge-convert train`, with canaries")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--large", metavar="MODEL", type=model_path, help="for llama-server: a bundle or a .gguf")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="keeps what was built (%(default)s)")
    parser.add_argument("--requests", type=int, default=200, help="of a client in each round (default: %(default)s)")
    options = parser.parse_args()
    require({"mosquitto": "mosquitto"})
    document = json.loads((options.model / "canaries.json").read_text("utf-8"))
    name, config = next(iter(document["tasks"].items()))
    inputs = [one["input"] for one in document["canaries"] if one["task"] == name]
    figures = Figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(Mosquitto(folder, free_port(), "set_tcp_nodelay true\n")).port
        more = task_table(name, kind="classify", labels=config["labels"])
        site = stack.enter_context(running_site(folder, port, "5", model=str(options.model.absolute()), more=more))
        askers = [Asker(site, name, f"{number}", has_nodelay=True, qos=1) for number in range(_CLIENTS)]
        for asker in askers:
            stack.callback(asker.close)
        pool = stack.enter_context(ThreadPoolExecutor(_CLIENTS))
        server = None if options.large is None else _server(options, folder, stack)
        grammar = "root ::= " + " | ".join(map(json.dumps, config["labels"]))
        system = f"You watch a machine. Answer with one label: {', '.join(config['labels'])}."

        def ask_all(asker: Asker) -> list[float]:
            return [asker.ask(value)[0] for value in itertools.islice(itertools.cycle(inputs), options.requests)]

        for _ in range(options.rounds):
            alone = ask_all(askers[0])
            figures.note("from publish to reply, one client", statistics.median(alone), "ms", at_most=_MOST_MS)
            began = time.monotonic()
            answered = sum(map(len, pool.map(ask_all, askers)))
            rate = answered / (time.monotonic() - began)
            figures.note(f"requests, {_CLIENTS} clients", rate, "/s", at_least=_LEAST_PER_S)
            if server is not None:
                prompts = [chatml(system, value if isinstance(value, str) else json.dumps(value)) for value in inputs]
                began = time.monotonic()
                list(pool.map(lambda prompt: server.choose(prompt, grammar), prompts * 2))
                their_rate = 2 * len(prompts) / (time.monotonic() - began)
                figures.note("llama-server with the large model", their_rate, "/s")
                figures.note("ratio to llama-server", rate / their_rate, at_least=_LEAST_RATIO)
        memory = json.loads(site.client.on(f"{site.base}/health")[-1].payload)["memory"]
        figures.note("memory of agent and worker", memory["agent_rss_mb"] + memory["worker_rss_mb"], "MB")
    print(name, figures.table(), sep="\n")
    print(f"load of this machine: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    return 0 if figures.are_met else 1


def _server(options: argparse.Namespace, folder: Path, stack: ExitStack) -> LlamaServer:
    options.work.mkdir(parents=True, exist_ok=True)
    programs = build_llama_cpp(options.work, ["llama-server"]).absolute()
    model = options.large / MODEL_FILE if options.large.is_dir() else options.large
    return stack.enter_context(closing(LlamaServer(programs, model.absolute(), folder)))


if __name__ == "__main__":
    sys.exit(main())
