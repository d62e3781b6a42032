"""A container that Podman runs with the command of systemd/edge-agent.container, with files of our own; as root."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from rigs.llama_sources import run_program
from rigs.machine import ROOT

UNIT = ROOT / "systemd" / "edge-agent.container"
GENERATOR = Path("/usr/lib/systemd/system-generators/podman-system-generator")
_IMAGE = re.search(r"^Image=(\S+)$", UNIT.read_text("utf-8"), flags=re.MULTILINE)
assert _IMAGE is not None
IMAGE = _IMAGE[1]


def service() -> str:
    """The service that Podman makes of the unit. Raises SystemExit with what it does not take."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(UNIT, folder)
        return run_program([str(GENERATOR), "--dryrun"], {**os.environ, "QUADLET_UNIT_DIRS": folder})


class Engine:
    """Podman with runc and a storage of its own, which `discard` removes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # crun refuses version 1 of cgroups, which a machine for builds may have.
        self._podman = ["podman", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        self._podman += ["--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]

    def load(self, image: Path) -> None:
        self.run("load", "--input", str(image))

    def run(self, *words: str, ends_with: int = 0) -> str:
        """The output of a command of Podman. Raises SystemExit for any other exit code than `ends_with`."""
        return run_program([*self._podman, *words], self._environment(), ends_with=ends_with)

    def start(self, mounts: Mapping[str, Path], notifications: Path) -> None:
        """Runs the unit's command. mounts: folders instead of the unit's; notifications: the socket for them."""
        command = re.search(r"^ExecStart=\S+ (run .*)$", service(), flags=re.MULTILINE)
        assert command is not None
        words = shlex.split(command[1].replace("%t/%N", str(self._folder / "container")))
        # Only systemd hands a service a cgroup to split, and root of a virtual machine may lack the right to the other.
        words = [word for word in words if word not in ("--cgroups=split", "--oom-score-adj=-500")]
        for source, folder in mounts.items():
            words = [re.sub(rf"^{source}:", f"{folder}:", word) for word in words]
        environment = {**self._environment(), "NOTIFY_SOCKET": str(notifications)}
        run_program([*self._podman, *words], environment)

    def discard(self) -> None:
        subprocess.run([*self._podman, "rm", "--all", "--force", "--time=5"], check=False, capture_output=True)
        subprocess.run([*self._podman, "system", "reset", "--force"], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}


class Notifications:
    """The socket where systemd would hear what a service says of itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def wait_for(self, assignment: str, timeout_s: float) -> float:
        """How many seconds it took. Raises SystemExit."""
        begun = time.monotonic()
        while (left_s := begun + timeout_s - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                if assignment in self._socket.recv(4096).decode().split("\n"):
                    return time.monotonic() - begun
            except TimeoutError:
                break
        raise SystemExit(f"the container does not say {assignment} within {timeout_s:.0f} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
