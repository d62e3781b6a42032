"""A container that Podman runs with the command of systemd/edge-agent.container, with files of our own, as root."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

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
        environment = {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
        return run_program([*self._podman, *words], environment, ends_with=ends_with)

    def start(self, mounts: Mapping[str, Path]) -> None:
        """Runs the unit's command, with these folders instead of the unit's."""
        command = re.search(r"^ExecStart=\S+ (run .*)$", service(), flags=re.MULTILINE)
        assert command is not None
        words = shlex.split(command[1].replace("%t/%N", str(self._folder / "container")))
        # Only systemd hands a service a cgroup to split, and root of a virtual machine may lack the right to the other.
        words = [word for word in words if word not in ("--cgroups=split", "--oom-score-adj=-500")]
        for source, folder in mounts.items():
            words = [re.sub(rf"^{source}:", f"{folder}:", word) for word in words]
        self.run(*words)

    def discard(self) -> None:
        subprocess.run([*self._podman, "rm", "--all", "--force", "--time=5"], check=False, capture_output=True)
        subprocess.run([*self._podman, "system", "reset", "--force"], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)
