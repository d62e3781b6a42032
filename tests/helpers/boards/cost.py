"""What the monitor of the board costs: CPU time of one pass over each recorded tree, as a share of a core at one pass a
second.

    python -m tests.helpers.boards.cost [--passes N] [--slower FACTOR] [--model MODEL.gguf [--turns N]]

The trees lie on this machine's disk cache: what a driver takes to ask its sensor comes on top (mostly waiting, for I²C
or the firmware). FACTOR is an assumption of how many times slower a core of a board is than one here. With a model:
what a pass over the costliest tree adds to steps of the engine, too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from edge_agent.board.monitor import INTERVAL_S
from tests.helpers.boards import steps
from tests.helpers.boards.trees import NAMES, load, passes


def pass_s(name: str, count: int) -> float:
    """Seconds of CPU time of this thread: the least over five rounds, for others may be using the caches."""
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
    parser.add_argument("--model", type=Path, help="a .gguf")
    parser.add_argument("--turns", type=int, default=10, help="with the monitor and without, each; even (default: 10)")
    arguments = parser.parse_args()
    costs_s: dict[str, float] = {}
    print(f"{'tree':18} {'ms/pass':>8} {'of a core':>10} {f'if {arguments.slower:g}x slower':>16}")
    for name in NAMES:
        costs_s[name] = pass_s(name, arguments.passes)
        share = costs_s[name] / INTERVAL_S
        print(f"{name:18} {1000 * costs_s[name]:8.3f} {share:10.3%} {share * arguments.slower:16.3%}")
    if arguments.model is not None:
        costliest = max(costs_s, key=lambda name: costs_s[name])
        print(f"\nsteps beside passes over {costliest}")
        print(steps.report(steps.measure(arguments.model, costliest, turns=arguments.turns)))


if __name__ == "__main__":
    main()
