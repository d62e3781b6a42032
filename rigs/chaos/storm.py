"""The processes of a site, and their faults."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.processes import Mosquitto, wait_until, workers
from tests.helpers.proxy import Proxy
from tests.helpers.site import site_config

FAULTS = ("worker killed", "agent killed", "broker restarted", "network cut", "broker frozen")
SHORTEST_PAUSE_S = 0.5


class Storm:
    """A broker that keeps its sessions, and an agent behind a network that can be cut."""

    def __init__(
        self, folder: Path, port: int, protocol: str, model: str, *, longest_pause_s: float, seed: int
    ) -> None:
        self.port = port
        self.base = "edgeai/v1/test/storm"
        self._random = random.Random(seed)
        self._pauses_s = (SHORTEST_PAUSE_S, longest_pause_s)
        (folder / "broker").mkdir(exist_ok=True)
        self._broker = Mosquitto(folder / "broker", port, is_persistent=True)
        self._broker.start()
        self._proxy = Proxy(port).__enter__()
        self._config = folder / "config.toml"
        more = '[log]\nlevel = "WARNING"\n'
        self._config.write_text(site_config("storm", self._proxy.port, protocol, model, more), encoding="utf-8")
        self._log = (folder / "agent.log").open("ab")
        self._agent = self._start_agent()

    def _start_agent(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edge_agent", "run", "--config", str(self._config)]
        return subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def strike(self, fault: str) -> None:
        """Returns when the fault is over, before the agent has recovered."""
        {
            "worker killed": self._kill_worker,
            "agent killed": self._kill_agent,
            "broker restarted": self._restart_broker,
            "network cut": self._cut,
            "broker frozen": self._freeze,
        }[fault]()

    def check(self) -> None:
        """Raises AssertionError if the agent has ended by itself."""
        assert self._agent.poll() is None, f"the agent ended with {self._agent.returncode}"

    def _kill_worker(self) -> None:
        wait_until(lambda: workers(self._agent.pid), "there is a worker")
        for worker in workers(self._agent.pid):
            os.kill(worker, signal.SIGKILL)

    def _kill_agent(self) -> None:
        self._agent.kill()
        self._agent.wait()
        self._agent = self._start_agent()

    def _restart_broker(self) -> None:
        self._broker.stop()
        self._broker.start()

    def _cut(self) -> None:
        self._proxy.cut()
        time.sleep(self._random.uniform(*self._pauses_s))
        self._proxy.mend()

    def _freeze(self) -> None:
        process = self._broker._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        time.sleep(self._random.uniform(*self._pauses_s))
        process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """The agent's exit code."""
        self._agent.terminate()
        code = self._agent.wait(60)
        self._proxy.__exit__()
        self._broker.stop()
        self._log.close()
        return code
