"""A board and a node die while a pool answers; prints what happens."""

import time
from collections import Counter
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

from rigs.load.asking import Answer, Load, answers_of
from rigs.pool.plant import BASE, NODES, Plant

BOARDS, STEP_MS = 4, 200.0
EVERY_S = 0.1
# How long the sensor asks between two events.
WATCHED_S = 8.0
DEADLINE_MS = 60_000


def demo(folder: Path) -> int:
    """Returns 0 if every request was answered."""
    print(f"starting {NODES} RabbitMQ nodes and {BOARDS} boards, which takes about a minute", flush=True)
    with Plant(folder, [STEP_MS] * BOARDS) as plant, closing(Load(plant.port, is_kept=True)) as load:
        print(f"a sensor asks {1 / EVERY_S:.0f} times a second; a board takes {STEP_MS:.0f} ms for an answer")
        board, node = plant.boards[0], plant.cluster.nodes[0]
        futures: list[Future[Answer]] = []
        _ask(load, futures, "all is well")
        board.kill()
        _ask(load, futures, f"{board.name} is killed")
        node.kill()
        _ask(load, futures, f"the node {node.address} is killed, too")
        board.start()
        node.start()
        node.wait_ready()
        _ask(load, futures, "both are started again")
        statuses = Counter(one.status for one in answers_of(futures))
    ends = ", ".join(f"{count} {status}" for status, count in statuses.items())
    print(f"{len(futures)} requests, {statuses.total()} replies: {ends}")
    return 0 if statuses == {"ok": len(futures)} else 1


def _ask(load: Load, futures: list[Future[Answer]], what: str) -> None:
    """Asks for WATCHED_S, and prints which boards answered meanwhile, and how fast."""
    began = time.monotonic()
    while time.monotonic() < began + WATCHED_S:
        futures.append(load.ask(f"{BASE}/infer/triage/request", "normal", deadline_ms=DEADLINE_MS))
        time.sleep(EVERY_S)
    answers = [answer for one in futures if one.done() and (answer := one.result()).heard_at >= began]
    boards = Counter(one.device for one in answers)
    slowest_ms = max((one.waited_ms for one in answers), default=0.0)
    by = ", ".join(f"{name} {count}" for name, count in sorted(boards.items()))
    print(f"{what}: {len(answers)} answers ({by}), the slowest after {slowest_ms:.0f} ms", flush=True)
