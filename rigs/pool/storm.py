"""Boards and nodes that die, and networks that are cut, while a sensor asks the pool."""

import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from rigs.pool.plant import Plant
from tests.helpers.proxy import Proxy

NODES = 3
STEPS_MS = [20.0, 20.0, 80.0, 80.0]
LONGEST_CUT_S = 12.0


class PoolStorm:
    """Three nodes and four boards, while the context is entered. `port`: where a sensor finds a node that is up."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.plant = Plant(folder, NODES, STEPS_MS, has_proxies=True)
        nodes = self.plant.cluster.nodes
        self._to_nodes = Proxy(*((node.address, node.mqtt_port) for node in nodes))
        self.port = self._to_nodes.port
        self._random = random.Random(seed)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.plant)
            stack.enter_context(self._to_nodes)
            self.plant.start_boards()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raises AssertionError if a board has ended by itself."""
        for board in self.plant.boards:
            assert board.agent is not None
            code = board.agent.process.poll()
            assert code is None, f"{board.name} ended with {code}:\n{board.agent.log[-2000:]}"

    def strike(self, fault: str) -> None:
        """Returns when the fault is over, before what it hit has recovered."""
        board = self._random.choice(self.plant.boards)
        match fault:
            case "board killed":
                board.kill()
                board.start()
            case "network cut":
                for proxy in board.proxies:
                    proxy.cut()
                time.sleep(self._random.uniform(0.5, LONGEST_CUT_S))
                for proxy in board.proxies:
                    proxy.mend()
            case "node killed":
                node = self._random.choice(self.plant.cluster.nodes)
                node.kill()
                time.sleep(self._random.uniform(1.0, LONGEST_CUT_S))
                node.start()
                node.wait_ready()

    def stop_boards(self) -> int:
        """0 if each ended as it should."""
        return max(board.stop() for board in self.plant.boards)
