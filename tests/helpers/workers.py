"""Stands for worker processes. What they were sent is kept, and a test says what they answer."""

from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.board.process import ProcessMemory
from edge_agent.core.pipe import Command, Event, Load
from edge_agent.worker import client, supervisor
from edge_agent.worker.process import WorkerExited

KILLED = WorkerExited(returncode=-9, log_tail=())


class FakeProcess:
    """Stands for a WorkerProcess."""

    def __init__(self, load: Load, deliver: Callable[[Any, Event | WorkerExited], None]) -> None:
        self.load = load
        self._deliver = deliver
        self.commands: list[Command] = []
        self.kills = 0
        self.is_running = True
        self.is_stopped = False
        self.pid = 77

    def deliver(self, event: Event | WorkerExited) -> None:
        self._deliver(self, event)

    def send(self, command: Command) -> None:
        self.commands.append(command)

    def kill(self) -> None:
        self.kills += 1

    def stop(self, _timeout_s: float) -> None:
        self.is_stopped = True


class Processes(list[FakeProcess]):
    """The processes that were started.

    The next starts raise `faults`; `on_start` and `on_send` are what a process does then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[OSError] = []
        self.on_start: Callable[[FakeProcess], None] = lambda _process: None
        self.on_send: Callable[[FakeProcess, Command], None] = lambda _process, _command: None


def fake_processes(patch: pytest.MonkeyPatch) -> Processes:
    """Every worker process that is made from now on is a FakeProcess."""
    processes = Processes()

    class Started(FakeProcess):
        def __init__(self, load: Load, deliver: Callable[[Any, Event | WorkerExited], None]) -> None:
            super().__init__(load, deliver)
            if processes.faults:
                raise processes.faults.pop()
            processes.append(self)
            processes.on_start(self)

        def send(self, command: Command) -> None:
            super().send(command)
            processes.on_send(self, command)

    for module in (supervisor, client):
        patch.setattr(module, "WorkerProcess", Started)
    return processes


class WorkerMemory:
    """What the kernel says a worker holds."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.held_mib = 400.0
        patch.setattr(supervisor, "process_memory", lambda _pid: self.read())

    def read(self) -> ProcessMemory:
        return ProcessMemory(anonymous_mib=self.held_mib - 10.0, swapped_mib=10.0, file_mib=9e3, data_mib=500.0)
