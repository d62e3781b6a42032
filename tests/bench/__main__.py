"""Requests per second through the whole agent, by how many clients ask at once, over the embedded broker.

Absolute times mean little on a shared machine: the widths take turns within each round, and what counts is the ratio to
one client, with its spread over the rounds.
usage: python -m tests.bench MODEL [--clients 1,4,8] [--rounds 5] [--requests 16] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_agent.config import ECHO_MODEL
from edge_agent.demo.broker import free_port, start_broker
from tests.client import Client
from tests.processes import AgentProcess

BASE = "edgeai/v1/bench/board"
LABELS = ["normal", "bearing fault", "cavitation", "overload", "leak"]
SYSTEM = "You monitor the pumps of a waterworks. Name the condition of the pump that the reading shows: " + "; ".join(
    f"{label}, if vibration, temperature, current and pressure speak for it" for label in LABELS
)
TASKS = {"triage": "classify", "report": "generate"}
REPORT_TOKENS = 32


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


@contextmanager
def agent(model: str, folder: Path, widest: int) -> Iterator[Client]:
    port = free_port()
    broker = start_broker("3.1.1", port, folder)
    config = folder / "config.toml"
    tasks = f'[tasks.triage]\nkind = "classify"\nsystem = {json.dumps(SYSTEM)}\nlabels = {json.dumps(LABELS)}\n'
    tasks += f'[tasks.report]\nkind = "generate"\nsystem = {json.dumps(SYSTEM)}\nmax_tokens = {REPORT_TOKENS}\n'
    path = model if model.startswith(ECHO_MODEL) else str(Path(model).absolute())
    config.write_text(
        'state_dir = "state"\n[device]\nsite = "bench"\nid = "board"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nprotocol = "3.1.1"\n'
        f"[models.default]\npath = {json.dumps(path)}\n[engine]\nmax_active = {widest}\n{tasks}",
        encoding="utf-8",
    )
    client = Client(port, "3.1.1")
    client.subscribe(f"{BASE}/#")
    process = AgentProcess(config)
    try:
        client.wait_for(f"{BASE}/state", lambda state: state["state"] == "online", 300)
        yield client
    finally:
        client.close()
        process.stop()
        broker.stop()


def one_run(client: Client, task: str, clients: int, requests: int, tag: str) -> tuple[float, list[dict[str, Any]]]:
    """Keeps `clients` requests under way until `requests` are answered; seconds, and the replies."""
    topic = f"{BASE}/infer/{task}/response"
    before = len(client.on(topic))
    began = time.perf_counter()
    for number in range(requests):
        if number >= clients:
            client.wait(topic, count=before + number - clients + 1)
        reading = {"pump": number, "vibration_mm_s": 2 + number % 9, "temperature_c": 50 + number, "run": tag}
        client.publish(f"{BASE}/infer/{task}/request", json.dumps(reading))
    replies = [message.json for message in client.wait(topic, count=before + requests, timeout_s=600)[before:]]
    elapsed = time.perf_counter() - began
    bad = [reply for reply in replies if reply["status"] != "ok"]
    if bad:
        raise SystemExit(f"a request was not answered ok: {bad[0]}")
    return elapsed, replies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a bundle or a .gguf")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    widths = [int(width) for width in options.clients.split(",")]
    rates: dict[tuple[str, int], list[float]] = {}
    latencies: dict[tuple[str, int], list[float]] = {}
    tokens: dict[tuple[str, int], list[tuple[int, int]]] = {}
    with tempfile.TemporaryDirectory() as folder, agent(options.model, Path(folder), max(widths)) as client:
        for number in range(options.rounds):
            for task in TASKS:
                for width in widths:
                    if sys.stderr.isatty():
                        print(f"round {number + 1}/{options.rounds} {task} {width}   ", end="\r", file=sys.stderr)
                    elapsed, replies = one_run(client, task, width, options.requests, f"{number}-{width}")
                    key = (task, width)
                    rates.setdefault(key, []).append(options.requests / elapsed)
                    latencies.setdefault(key, []).extend(reply["timing"]["total_ms"] for reply in replies)
                    tokens.setdefault(key, []).extend(
                        (reply["usage"]["cached_tokens"], reply["usage"]["prompt_tokens"]) for reply in replies
                    )
    table: list[Measurement] = []
    for (task, width), rate in rates.items():
        ratios = [mine / one for mine, one in zip(rate, rates[task, widths[0]], strict=True)]
        cuts = statistics.quantiles(latencies[task, width], n=20)
        cached, prompt = (sum(column) for column in zip(*tokens[task, width], strict=True))
        table.append(
            Measurement(
                task=task,
                clients=width,
                requests_per_s=round(statistics.median(rate), 3),
                p50_ms=round(statistics.median(latencies[task, width]), 1),
                p95_ms=round(cuts[-1], 1),
                ratio=round(statistics.median(ratios), 2),
                lowest_ratio=round(min(ratios), 2),
                highest_ratio=round(max(ratios), 2),
                cached_share=round(cached / prompt, 3),
            )
        )
    if options.json:
        print(json.dumps([asdict(row) for row in table], indent=2))
        return 0
    print(f"{'task':8} {'clients':>7} {'requests/s':>10} {'p50 ms':>8} {'p95 ms':>8} {'ratio':>6}  spread       shared")
    for row in table:
        spread = f"{row.lowest_ratio:.2f}–{row.highest_ratio:.2f}"
        print(
            f"{row.task:8} {row.clients:>7} {row.requests_per_s:>10.2f} {row.p50_ms:>8.1f} {row.p95_ms:>8.1f} "
            f"{row.ratio:>6.2f}  {spread:11} {row.cached_share:>6.0%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
