"""How soon a killed worker is replaced.

Each time, one request is with the worker when it is killed (it is stopped first, so that it cannot answer), and another
request comes right after. Milliseconds, each from the line before, but `waiting` and `after` from the kill:
  noticed   the next worker's process exists
  imported  it has read its own program
  loaded    it has loaded the model and decoded its prefixes
  waiting   the request that the killed worker had is answered
  after     the request that came after the kill is answered
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
from pathlib import Path

from edge_agent.tools.demo.readings import checkpoint_folder
from edge_agent.worker.supervisor import STABLE_AFTER_S
from rigs.bench.agent import BASE, AgentSide, running_agent, task_table
from tests.helpers.client import Client
from tests.helpers.processes import wait_until, workers

_LABELS = ["normal", "bearing fault", "cavitation"]
PARTS = ("noticed", "imported", "loaded", "waiting", "after")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rigs.bench.revival",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a bundle or a .gguf (default: the demonstration model)"
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--age",
        metavar="S",
        type=float,
        default=STABLE_AFTER_S + 1.0,
        help="of a worker when it is killed (default: %(default)s: a stable one, which is replaced at once)",
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = given.model or _demo_model(folder)
        tasks = task_table("triage", kind="classify", system="Name the condition.", labels=_LABELS)
        with running_agent(model, folder, tasks, {}) as agent:
            kills = [_kill(agent, number, given.age) for number in range(given.kills)]
    columns = {part: sorted(kill[part] for kill in kills) for part in PARTS}
    if given.json:
        print(json.dumps({"kills": kills, "age_s": given.age}, indent=2))
        return 0
    print(f"{given.kills} kills at an age of {given.age:g} s {'p50':>12} {'p95':>8} {'max':>8}")
    for part, values in columns.items():
        p95 = values[math.ceil(0.95 * len(values)) - 1]
        print(f"{part:28} {statistics.median(values):9.0f} ms {p95:5.0f} ms {values[-1]:5.0f} ms")
    return 0


def _demo_model(folder: Path) -> Path:
    command = [sys.executable, "-m", "edge_convert", str(checkpoint_folder()), "--out", str(folder / "demo")]
    subprocess.run([*command, "--type", "q8_0", "--name", "demo", "--no-canaries"], check=True)
    return folder / "demo"


def _kill(agent: AgentSide, number: int, age_s: float) -> dict[str, float]:
    """Milliseconds by part."""
    client = agent.client
    time.sleep(age_s)
    client.messages.clear()
    (worker,) = workers(agent.pid)
    os.kill(worker, signal.SIGSTOP)
    _ask(client, f"waiting-{number}", f"{number} mm/s")
    wait_until(lambda: agent.health()["inference"]["active"], "the worker has the request")
    next_at: list[float] = []
    watch = threading.Thread(target=lambda: next_at.append(_time_of_next_worker(agent.pid, worker)))
    watch.start()
    killed_at = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    _ask(client, f"after-{number}", f"{number} m/s")
    replies = {reply.json["id"]: reply for reply in client.wait(f"{BASE}/infer/triage/response", count=2)}
    ready_at = client.wait(f"{BASE}/event/worker-restarted")[0].at
    watch.join()
    assert {reply.json["status"] for reply in replies.values()} == {"ok"}, replies
    load_s = float(re.findall(r"model ready load_s=([\d.]+)", agent.process.log)[-1])
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


def _time_of_next_worker(parent: int, before: int) -> float:
    """In seconds of the monotonic clock."""
    while not set(workers(parent)) - {before}:
        time.sleep(0.001)
    return time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
