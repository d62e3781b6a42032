"""The unit for Podman on a booted system, by the commands of docs/container.md: `python -m rigs.deploy container`.

Each test needs those before it.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from edge_agent import __version__
from rigs.deploy.roots import Board, image
from rigs.deploy.service import READING, FaultTests, Service
from rigs.machine import ROOT
from tests.docs.pages import sample
from tests.helpers.bundles import convert_demo_model
from tests.helpers.processes import wait_until

# docs/container.md has the same names.
BUNDLE, TASK = "qwen2.5-0.5b-q8_0", "pump-triage"
CONFIG = f"""
[device]
site = "hall1"
id = "board1"
[mqtt]
host = "127.0.0.1"
[models.default]
path = "/var/lib/edge-agent/models/{BUNDLE}"
[tasks.{TASK}]
kind = "classify"
labels = ["normal", "imbalance", "bearing fault", "cavitation"]
"""


class ContainerService(Service):
    """The container under systemd on a board."""

    def install(self, bundle: Path) -> None:
        """Follows the samples of docs/container.md, with a configuration of our own and a broker."""
        place = self.board.root / "srv/repository"
        self.board.run("mkdir", "-p", "/srv/repository/systemd")
        archive = f"edge-agent-{__version__}-x86_64.oci.tar"
        for path, name in (
            (ROOT / "dist/images" / archive, archive),
            (ROOT / "systemd/edge-agent.container", "systemd/edge-agent.container"),
        ):
            (place / name).write_bytes(path.read_bytes())
        for name, text in (("config.toml", CONFIG), ("ca.pem", ""), ("mqtt_password", "")):
            (place / name).write_text(text, encoding="utf-8")
        subprocess.run(["cp", "-r", str(bundle), str(place / BUNDLE)], check=True)
        self.shell("systemctl enable --now mosquitto")
        # The board's image has Podman, and the board no network.
        load = sample("container", "sh", "podman load").replace("apt-get install podman\n", "")
        self.shell(re.sub(r"edge-agent-\S+\.oci\.tar", archive, load))
        self._fit_to_this_machine()
        self.shell(sample("container", "sh", "cp config.toml"))
        # Its last command asks, and ends with 0 for an answer.
        self.shell(sample("container", "sh", "systemctl start edge-agent"), timeout_s=300)

    def _fit_to_this_machine(self) -> None:
        """Takes limits out of the unit that this machine cannot set inside a container."""
        lines = []
        if "pids" not in self.shell("cat /sys/fs/cgroup/cgroup.controllers").split():
            lines.append("PidsLimit=0")
            self.board.run("tee", "/etc/containers/containers.conf", stdin="[containers]\npids_limit = 0\n")
        if self.board.run("sh", "-c", "echo -500 > /proc/self/oom_score_adj", check=False).returncode:
            lines += ["PodmanArgs=", "PodmanArgs=--umask=0077"]
        if lines:
            print("the unit without its own", *(line.partition("=")[0] for line in lines if line != "PodmanArgs="))
            folder = "/etc/containers/systemd/edge-agent.container.d"
            self.shell(f"mkdir -p {folder}")
            self.board.run("tee", f"{folder}/rig.conf", stdin="\n".join(["[Container]", *lines, ""]))

    def configure(self, text: str) -> None:
        (self.board.root / "etc/edge-agent/config.toml").write_text(text, encoding="utf-8")

    @property
    def pid(self) -> int:
        """The agent's process, by its number on the board; 0 if it is not running."""
        found = self.board.run("podman", "inspect", "--format={{.State.Pid}}", "edge-agent", check=False)
        return int(found.stdout) if not found.returncode else 0

    def ask(self, task: str = TASK) -> dict[str, Any]:
        return dict(json.loads(self.shell(f"podman exec edge-agent edge-agent ask {task} '{READING}'")))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerService]:
    bundle = convert_demo_model(tmp_path_factory.mktemp("model"), "q8_0")
    with TemporaryDirectory(dir="/var/tmp") as name:
        # Podman cannot lay its images over those of the board.
        storage = Path(name) / "storage"
        storage.mkdir()
        options = (
            "--capability=all",
            "--system-call-filter=add_key keyctl bpf",
            f"--bind={storage}:/var/lib/containers",
        )
        root = image("trixie", packages=("podman", "crun"))
        with Board(root, Path(name), name="board1", options=options) as board:
            service = ContainerService(board)
            service.install(bundle)
            yield service


def test_it_answers_and_systemd_and_podman_know(service: ContainerService) -> None:
    reply = service.ask()
    assert (reply["status"], reply["finish"]) == ("ok", "labels")
    assert service.show("StatusText").startswith("online")
    assert service.show("NRestarts") == "0"
    wait_until(lambda: "(healthy)" in service.shell("podman ps"), "podman says healthy", 90)


def test_its_files_are_its_own(service: ContainerService) -> None:
    output = service.shell("stat --format='%u %a' /var/lib/edge-agent/state /var/lib/edge-agent/state/*")
    assert {line.split()[0] for line in output.splitlines()} == {"65532"}
    assert {int(line.split()[1], 8) & 0o077 for line in output.splitlines()} == {0}


class TestFaults(FaultTests):
    config = CONFIG


def test_a_stop_is_a_success_and_says_so_on_the_bus(service: ContainerService) -> None:
    service.shell("systemctl stop edge-agent")
    assert service.show("Result") == "success"
    state = service.shell("mosquitto_sub -C 1 -W 5 -t edgeai/v1/hall1/board1/state")
    assert json.loads(state)["state"] == "stopped"
