"""The service edge-agent on a booted board, whichever unit runs it, and what is asked of both units."""

import abc
from typing import Any

import pytest

from rigs.deploy.roots import Board
from tests.helpers.processes import wait_until

READING = '{"vibration_mm_s":7.9,"temperature_c":81.5,"current_a":12.1,"pressure_bar":5.8,"speed_rpm":2950}'
# The sum of WatchdogSec=, StopTimeout=, RestartSec= and the time that a start takes.
RESTART_S = 150.0


class Service(abc.ABC):
    """Commands run in /srv/repository of the board, as root."""

    def __init__(self, board: Board) -> None:
        self.board = board

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """The agent's process, by its number on the board."""

    @abc.abstractmethod
    def configure(self, text: str) -> None: ...

    @abc.abstractmethod
    def ask(self, task: str = "pump-triage") -> dict[str, Any]: ...

    def shell(self, script: str, timeout_s: float = 120.0, **environment: str) -> str:
        given = [f"{name}={value}" for name, value in environment.items()]
        command = ["env", "--chdir=/srv/repository", *given, "sh", "-e", "-c", script]
        return self.board.run(*command, timeout_s=timeout_s).stdout

    def show(self, name: str) -> str:
        return self.shell(f"systemctl show --value --property={name} edge-agent").strip()

    @property
    def log(self) -> str:
        return self.shell("journalctl --unit edge-agent --output cat --no-pager")


class FaultTests:
    """What must hold for both units. Each test needs those before it."""

    config: str

    @pytest.mark.parametrize("signal", ["STOP", "KILL"])
    def test_a_frozen_or_killed_agent_is_restarted(self, service: Service, signal: str) -> None:
        pid, restarts = service.pid, int(service.show("NRestarts"))
        service.shell(f"kill -{signal} {pid}")
        wait_until(lambda: service.show("NRestarts") == str(restarts + 1), "a restart", RESTART_S)
        wait_until(lambda: service.show("ActiveState") == "active", "up again", RESTART_S)
        assert service.pid != pid
        assert service.ask()["status"] == "ok"

    def test_a_bad_configuration_is_not_tried_again(self, service: Service) -> None:
        service.configure(self.config.replace('site = "hall1"', 'sight = "hall1"'))
        assert service.board.run("systemctl", "restart", "edge-agent", check=False).returncode == 1
        restarts = service.show("NRestarts")
        # Longer than RestartSec=.
        service.shell("sleep 7")
        assert (service.show("ActiveState"), service.show("ExecMainStatus")) == ("failed", "78")
        assert service.show("NRestarts") == restarts
        assert "device.sight: unknown key" in service.log
        service.configure(self.config)
        service.shell("systemctl start edge-agent")
        assert service.ask()["status"] == "ok"

    def test_a_reload_takes_over_new_tasks(self, service: Service) -> None:
        pid = service.pid
        service.configure(self.config + '[tasks.second]\nkind = "classify"\nlabels = ["normal", "overload"]\n')
        service.shell("systemctl reload edge-agent")
        wait_until(lambda: "reloaded applied=tasks" in service.log, "a reload", 20)
        assert service.ask("second")["status"] == "ok"
        assert service.pid == pid

    def test_it_is_back_after_a_restart_of_the_board(self, service: Service) -> None:
        service.board.reboot()
        wait_until(lambda: service.show("ActiveState") == "active", "up again", RESTART_S)
        assert service.ask()["status"] == "ok"
