"""Boards and nodes that die, and networks that are cut, while a sensor asks the pool."""

import random
import time

from rigs.pool.plant import Plant

STEPS_MS = [20.0, 20.0, 80.0, 80.0]
LONGEST_CUT_S = 12.0


class PoolStorm:
    """The faults of a plant."""

    def __init__(self, plant: Plant, seed: int) -> None:
        self.plant = plant
        self._random = random.Random(seed)

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
