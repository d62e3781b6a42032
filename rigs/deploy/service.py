"""The service edge-agent on a booted board, whichever unit runs it, and what is asked of both units."""

import abc
from typing import Any

from rigs.deploy.roots import Board
from tests.helpers.processes import wait_until

READING = '{"vibration_mm_s":7.9,"temperature_c":81.5,"current_a":12.1,"pressure_bar":5.8,"speed_rpm":2950}'


class Service(abc.ABC):
    """Commands run in /srv/repository of the board, as root."""

    def __init__(self, board: Board) -> None:
        self.board = board

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """Of the agent, on the board."""

    @abc.abstractmethod
    def configure(self, text: str) -> None: ...

    @abc.abstractmethod
    def ask(self, task: str) -> dict[str, Any]: ...

    def shell(self, script: str, timeout_s: float = 120.0, **environment: str) -> str:
        given = [f"{name}={value}" for name, value in environment.items()]
        command = ["env", "--chdir=/srv/repository", *given, "sh", "-e", "-c", script]
        return self.board.run(*command, timeout_s=timeout_s).stdout

    def show(self, name: str) -> str:
        return self.shell(f"systemctl show --value --property={name} edge-agent").strip()

    @property
    def log(self) -> str:
        return self.shell("journalctl --unit edge-agent --output cat --no-pager")


def check_reload(service: Service, config: str) -> None:
    """A reload takes over a new task, without another process."""
    pid = service.pid
    service.configure(config + '[tasks.second]\nkind = "classify"\nlabels = ["normal", "overload"]\n')
    service.shell("systemctl reload edge-agent")
    wait_until(lambda: "reloaded applied=tasks" in service.log, "a reload", 20)
    assert service.ask("second")["status"] == "ok"
    assert service.pid == pid
