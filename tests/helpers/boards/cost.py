"""What the monitor costs: CPU time of one pass over each recorded tree, as a share of a core at one pass a second.

    python -m tests.helpers.boards.cost [--passes N] [--slower FACTOR]

The trees lie in this machine's disk cache, so the time that a driver needs comes on top. FACTOR is an assumption: how
many times slower a core of a board is than one of this machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from edge_agent.board.monitor import INTERVAL_S
from tests.helpers.boards.trees import NAMES, load, passes


def pass_s(name: str, count: int) -> float:
    """Seconds of CPU time, the least of five rounds."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        load(name).write(root)
        read = passes(root)
        rounds = []
        for _ in range(5):
            started = time.thread_time()
            for _ in range(count):
                read()
            rounds.append((time.thread_time() - started) / count)
    return min(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=200)
    parser.add_argument("--slower", type=float, default=6.0, help="how many times slower a board is (assumed: 6)")
    arguments = parser.parse_args()
    print(f"{'tree':18} {'ms/pass':>8} {'of a core':>10} {f'if {arguments.slower:g}x slower':>16}")
    for name in NAMES:
        cost_s = pass_s(name, arguments.passes)
        share = cost_s / INTERVAL_S
        print(f"{name:18} {1000 * cost_s:8.3f} {share:10.3%} {share * arguments.slower:16.3%}")


if __name__ == "__main__":
    main()
