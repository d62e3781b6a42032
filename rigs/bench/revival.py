"""How soon a worker that was killed is made up for: `python -m rigs.bench.revival [MODEL] [--kills 20] [--age 61]`.

An agent and a broker as processes. Each time, one request is with the worker when it is killed (stopped before, so that
it cannot have answered), another one comes right after. Milliseconds from the kill to
  noticed   the next worker's process is there: how soon the end is seen, and the pause before a restart
  imported  that has read its own program
  loaded    and the model, decoded prefixes included: it is ready
  waiting   the request that it took with it is answered
  after     the one that came after the kill is answered
each from the one before; `waiting` and `after` from the kill.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.tools.demo.broker import free_port, start_broker
from edge_agent.tools.demo.readings import checkpoint_folder
from edge_agent.worker.supervisor import STABLE_AFTER_S
from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, wait_until, workers
from tests.helpers.site import site_config

BASE = "edgeai/v1/test/revival"
_WAIT_S = 300.0
PARTS = ("noticed", "imported", "loaded", "waiting", "after")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a bundle or a .gguf (default: the demonstration model)"
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--age",
        metavar="S",
        type=float,
        default=STABLE_AFTER_S + 1.0,
        help="of a worker when it is killed (default: %(default)s, which is called stable)",
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with _site(folder, given.model or str(_demo_model(folder))) as (agent, client):
            kills = [_kill(agent, client, number, given.age) for number in range(given.kills)]
    columns = {part: sorted(kill[part] for kill in kills) for part in PARTS}
    if given.json:
        print(json.dumps({"kills": kills, "age_s": given.age}, indent=2))
        return 0
    print(f"{given.kills} kills at an age of {given.age:g} s {'p50':>12} {'p95':>8} {'max':>8}")
    for part, values in columns.items():
        p95 = values[math.ceil(0.95 * len(values)) - 1]
        print(f"{part:28} {statistics.median(values):9.0f} ms {p95:5.0f} ms {values[-1]:5.0f} ms")
    return 0


@contextmanager
def _site(folder: Path, model: str) -> Iterator[tuple[AgentProcess, Client]]:
    port = free_port()
    broker = start_broker("5", port, folder)
    client = Client(port, "5")
    client.subscribe(f"{BASE}/#")
    config = folder / "config.toml"
    config.write_text(site_config("revival", port, "5", model), encoding="utf-8")
    agent = AgentProcess(config)
    try:
        client.wait_for(f"{BASE}/state", lambda state: state["state"] == "online", _WAIT_S)
        yield agent, client
    finally:
        agent.stop()
        client.close()
        broker.stop()


def _demo_model(folder: Path) -> Path:
    command = [sys.executable, "-m", "edge_convert", str(checkpoint_folder()), "--out", str(folder / "demo")]
    subprocess.run([*command, "--type", "q8_0", "--name", "demo", "--no-canaries"], check=True)
    return folder / "demo"


def _kill(agent: AgentProcess, client: Client, number: int, age_s: float) -> dict[str, float]:
    """Milliseconds by part."""
    time.sleep(age_s)
    client.messages.clear()
    (worker,) = workers(agent.process.pid)
    os.kill(worker, signal.SIGSTOP)
    _ask(client, f"waiting-{number}", f"{number} mm/s")
    _wait_until_handed_over(client)
    next_at: list[float] = []
    watch = threading.Thread(target=lambda: next_at.append(_another_child(agent.process.pid, worker)))
    watch.start()
    killed_at = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    _ask(client, f"after-{number}", f"{number} m/s")
    replies = {reply.json["id"]: reply for reply in client.wait(f"{BASE}/infer/triage/response", count=2)}
    ready_at = client.wait(f"{BASE}/event/worker-restarted")[0].at
    watch.join()
    assert {reply.json["status"] for reply in replies.values()} == {"ok"}, replies
    load_s = float(re.findall(r"model ready load_s=([\d.]+)", agent.log)[-1])
    times_s = {
        "noticed": next_at[0] - killed_at,
        "imported": ready_at - next_at[0] - load_s,
        "loaded": load_s,
        "waiting": replies[f"waiting-{number}"].at - killed_at,
        "after": replies[f"after-{number}"].at - killed_at,
    }
    return {part: 1000 * seconds for part, seconds in times_s.items()}


def _ask(client: Client, name: str, text: str) -> None:
    client.publish(f"{BASE}/infer/triage/request", {"id": name, "input": text, "deadline_ms": 600_000})


def _wait_until_handed_over(client: Client) -> None:
    def is_active() -> bool:
        heard = len(client.on(f"{BASE}/health"))
        client.publish(f"{BASE}/cmd/health", b"")
        health = client.wait(f"{BASE}/health", count=heard + 1)[-1].json
        return bool(health["inference"]["active"])

    wait_until(is_active, "the worker has the request")


def _another_child(parent: int, before: int) -> float:
    """When it was there, in seconds of the monotonic clock."""
    while not set(workers(parent)) - {before}:
        time.sleep(0.001)
    return time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
