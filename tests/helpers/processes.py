"""Real processes that tests start: mosquitto and the agent."""

import getpass
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

from edge_agent.tools.demo.broker import SEARCH_PATH

WAIT_S = 60.0
EDGE_AGENT = (sys.executable, "-m", "edge_agent")


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


EdgeAgent = Callable[..., Ended]
StartAgent = Callable[..., "AgentProcess"]
BrokerPort = Callable[[str], int]


def free_port() -> int:
    """A free port of 127.0.0.1 that no other test gets until this process ends."""
    while True:
        port = _reserved_port()
        with socket.socket() as listener:
            # A server does this, too, even soon after the last one.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _reserved_port() -> int:
    """A port that stays bound at an address that nobody else uses, so the kernel offers it to no other test there."""
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.255.255.254", 0))
    port = int(reservation.getsockname()[1])
    reservation.detach()
    return port


def wait_until(is_so: Any, what: str, timeout_s: float = WAIT_S, *, every_s: float = 0.01) -> None:
    """Waits for a condition, which is tried every so often; fails the test with `what` after the time."""
    give_up_at = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(every_s)


def children(pid: int, module: str = "") -> list[int]:
    """Processes that a process has started, in any of its threads, and that run this module."""
    return [child.pid for child in psutil.Process(pid).children() if module in _command(child.pid)]


def workers(pid: int) -> list[int]:
    """The worker processes of an agent."""
    return children(pid, "edge_agent.engine.worker")


def is_running(pid: int) -> bool:
    """False even for a process whose end its parent has not noticed yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return ""


def ends(process: subprocess.Popen[Any], patience_s: float = WAIT_S) -> bool:
    """Whether a process ends at SIGTERM, or has ended before; if not, it is killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    return True


class Mosquitto:
    """A mosquitto of our own on one port of this machine, for both MQTT versions."""

    def __init__(
        self, folder: Path, port: int, extra: str = "", *, is_persistent: bool = False, address: str = "127.0.0.1"
    ) -> None:
        """With `is_persistent`, sessions and their messages outlive it, unless it is killed.

        `address` must be of 127.0.0.0/8.
        """
        self.port, self.address = port, address
        self._folder = folder
        self._config = folder / "mosquitto.conf"
        # Started by root, it would become a user that cannot write there.
        kept = f"persistence true\npersistence_location {folder}/\nuser {getpass.getuser()}"
        self._config.write_text(
            f"listener {port} {address}\nallow_anonymous true\nlog_type error\n"
            f"{kept if is_persistent else 'persistence false'}\n"
            f"max_queued_messages 100000\n{extra}",
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._is_persistent = is_persistent

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("mosquitto", path=SEARCH_PATH) is not None

    def start(self) -> None:
        program = shutil.which("mosquitto", path=SEARCH_PATH)
        assert program is not None
        self._process = subprocess.Popen([program, "-c", str(self._config)])
        wait_until(self._is_listening, "mosquitto listens")

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(WAIT_S)

    def _is_listening(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), 0.2):
                return True
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and not self._is_persistent:
            self._process.kill()  # it takes a second to end by itself
        self.stop()


class AgentProcess:
    """`edge-agent run` as a process, started by `program`. Its log is kept beside its configuration."""

    def __init__(self, config: Path, program: Sequence[str] = EDGE_AGENT) -> None:
        self.config = config
        self._log_path = config.with_suffix(".log")
        self._log = self._log_path.open("wb")
        self.process = subprocess.Popen([*program, "run", "--config", str(config)], stdout=self._log, stderr=self._log)

    @property
    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """Sends SIGTERM, and SIGKILL to an agent that does not end; returns its exit code."""
        self._log.close()
        assert ends(self.process), f"the agent did not stop on SIGTERM; its log:\n{self.log}"
        return self.process.returncode
