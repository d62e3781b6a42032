"""A board and a node die while a pool answers; prints what happens."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from rigs.pool.plant import BASE, Plant
from rigs.pool.sensor import Sensor
from tests.helpers.proxy import Proxy

NODES, BOARDS = 3, 4
STEP_MS = 200.0
EVERY_S = 0.1
# How long the sensor asks between two events.
WATCHED_S = 8.0
DEADLINE_MS = 60_000


def demo(folder: Path) -> int:
    """0 if every request was answered."""
    print(f"starting {NODES} RabbitMQ nodes and {BOARDS} boards, which takes about a minute", flush=True)
    with Plant(folder, NODES, [STEP_MS] * BOARDS) as plant:
        plant.start_boards()
        targets = [(node.address, node.mqtt_port) for node in plant.cluster.nodes]
        with Proxy(*targets) as to_nodes, closing(Sensor(to_nodes.port, is_kept=True)) as sensor:
            print(f"a sensor asks {1 / EVERY_S:.0f} times a second; a board takes {STEP_MS:.0f} ms for an answer")
            board, node = plant.boards[0], plant.cluster.nodes[0]
            sent = _ask(sensor, 0, "all is well")
            board.kill()
            sent = _ask(sensor, sent, f"{board.name} is killed")
            node.kill()
            sent = _ask(sensor, sent, f"the node {node.address} is killed, too")
            board.start()
            node.start()
            node.wait_ready()
            sent = _ask(sensor, sent, "both are started again")
            sensor.wait(sent)
            statuses = Counter(one.status for one in sensor.answers)
    ends = ", ".join(f"{count} {status}" for status, count in statuses.items())
    print(f"{sent} requests, {statuses.total()} replies: {ends}")
    return 0 if statuses == {"ok": sent} else 1


def _ask(sensor: Sensor, sent: int, what: str) -> int:
    """Asks for WATCHED_S, and prints which boards answered meanwhile, and how fast; how many requests are sent now."""
    before, ends_at = len(sensor.answers), time.monotonic() + WATCHED_S
    while time.monotonic() < ends_at:
        sensor.send(BASE, str(sent), DEADLINE_MS)
        sent += 1
        time.sleep(EVERY_S)
    answers = sensor.answers[before:]
    boards = Counter(one.device for one in answers)
    slowest_ms = max((one.waited_ms for one in answers), default=0.0)
    by = ", ".join(f"{name} {count}" for name, count in sorted(boards.items()))
    print(f"{what}: {len(answers)} answers ({by}), the slowest after {slowest_ms:.0f} ms", flush=True)
    return sent
