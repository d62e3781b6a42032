"""Time and memory of a conversion to BF16 beside upstream's converter: `python -m rigs.parity.cost CHECKPOINT`.

Both run in turns, each as a process of its own. Memory is the largest anonymous part of the resident set, of which the
pages of files are none. Exit code 1 unless ours is faster and stays below LIMIT_MIB.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edge_agent.board.process import process_memory
from rigs.machine import checkpoint_path

from .upstream import Upstream

LIMIT_MIB = 286  # 300 MB
SAMPLE_S = 0.005


@dataclass(frozen=True)
class Cost:
    """Of one run: wall-clock seconds, and the peak of its anonymous memory."""

    seconds: float
    anonymous_mib: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.parity.cost", description=__doc__)
    parser.add_argument("checkpoint", type=checkpoint_path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("build/parity"))
    parser.add_argument("--python", type=Path, help="interpreter with torch and transformers")
    given = parser.parse_args()
    out = given.work / "cost"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    upstream, environment = Upstream(given.work, given.python).command(given.checkpoint, out / "theirs.gguf", "bf16")
    own = [sys.executable, "-m", "convert", str(given.checkpoint), "--out", str(out / "ours")]
    own += ["--type", "bf16", "--no-canaries"]
    programs = {"edge-convert": ([*own, "--force"], dict(os.environ)), "upstream": (upstream, environment)}
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    for _ in range(given.rounds):
        for name, program in programs.items():
            costs[name].append(measure(*program))
    shutil.rmtree(out)
    print(f"{'median of ' + str(given.rounds):14} {'seconds':>8} {'peak anonymous MiB':>18}")
    found = {name: _median(runs) for name, runs in costs.items()}
    for name, cost in found.items():
        print(f"{name:14} {cost.seconds:8.1f} {cost.anonymous_mib:18.0f}")
    ours, theirs = found["edge-convert"], found["upstream"]
    print(f"{'ratio':14} {ours.seconds / theirs.seconds:8.2f} {ours.anonymous_mib / theirs.anonymous_mib:18.2f}")
    return 0 if ours.seconds < theirs.seconds and ours.anonymous_mib < LIMIT_MIB else 1


def measure(command: list[str], environment: dict[str, str]) -> Cost:
    """Runs it. Raises SystemExit if it fails."""
    began, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while True:
            try:
                process.wait(SAMPLE_S)
                break
            except subprocess.TimeoutExpired:
                memory = process_memory(process.pid)
                peak = peak if memory is None else max(peak, memory.anonymous_mib)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nfailed with {process.returncode}")
    return Cost(time.monotonic() - began, peak)


def _median(runs: list[Cost]) -> Cost:
    return Cost(median(run.seconds for run in runs), median(run.anonymous_mib for run in runs))


if __name__ == "__main__":
    sys.exit(main())
