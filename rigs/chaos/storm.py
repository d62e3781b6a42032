"""The processes of a site, and their faults."""

import os
import random
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Protocol

from tests.helpers.client import Client
from tests.helpers.processes import AgentProcess, Mosquitto, free_port, wait_until, workers
from tests.helpers.proxy import Proxy
from tests.helpers.site import written_config

ENGINE = "echo:step_ms=5"
SHORTEST_PAUSE_S = 0.5
START_S = 60.0


class Faults(Protocol):
    """What can go wrong where an asker asks."""

    def check(self) -> None:
        """Raises AssertionError if a process has ended by itself."""

    def strike(self, fault: str) -> None:
        """Returns when the fault is over, before what it hit has recovered."""


class Storm:
    """A broker that keeps its sessions, and an agent behind a network that can be cut."""

    def __init__(self, folder: Path, protocol: str, *, longest_pause_s: float, seed: int) -> None:
        self.port = free_port()
        self.base = "edgeai/v1/test/storm"
        self._random = random.Random(seed)
        self._longest_pause_s = longest_pause_s
        (folder / "broker").mkdir(exist_ok=True)
        self._broker = Mosquitto(folder / "broker", self.port, is_persistent=True)
        self._broker.start()
        self._proxy = Proxy(self.port).__enter__()
        more, port = '[log]\nlevel = "WARNING"\n', self._proxy.port
        self._config = written_config(folder, ENGINE, more, device="storm", port=port, protocol=protocol)
        self._agent = AgentProcess(self._config)
        # Before the agent's first connection, the broker keeps nothing for it.
        with closing(Client(self.port, protocol)) as client:
            client.subscribe(f"{self.base}/state")
            client.wait_for(f"{self.base}/state", lambda state: state["state"] == "online", START_S)

    def check(self) -> None:
        """Raises AssertionError if the agent has ended by itself."""
        code = self._agent.process.poll()
        assert code is None, f"the agent ended with {code}:\n{self._agent.log[-2000:]}"

    def strike(self, fault: str) -> None:
        """Returns when the fault is over, before the agent has recovered."""
        match fault:
            case "worker killed":
                wait_until(lambda: workers(self._agent.process.pid), "there is a worker")
                for worker in workers(self._agent.process.pid):
                    os.kill(worker, signal.SIGKILL)
            case "agent killed":
                self._agent.signal(signal.SIGKILL)
                self._agent.stop()
                self._agent = AgentProcess(self._config)
            case "broker restarted":
                self._broker.stop()
                self._broker.start()
            case "network cut":
                self._proxy.cut()
                self._pause()
                self._proxy.mend()
            case "broker frozen":
                process = self._broker._process
                assert process is not None
                process.send_signal(signal.SIGSTOP)
                self._pause()
                process.send_signal(signal.SIGCONT)

    def _pause(self) -> None:
        time.sleep(self._random.uniform(SHORTEST_PAUSE_S, self._longest_pause_s))

    def stop(self) -> int:
        """The agent's exit code."""
        code = self._agent.stop()
        self._proxy.__exit__()
        self._broker.stop()
        return code
