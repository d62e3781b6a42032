"""Podman takes the unit of the container, which has the limits of the service; compose.yaml fits its schema."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_agent import __version__
from rigs.container.engine import GENERATOR, IMAGE, UNIT, service
from tests.conftest import needs
from tests.helpers.support import loaded

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "examples" / "compose" / "compose.yaml"
VERSION = __version__
image = loaded(ROOT / "ansible" / "wheels" / "image.py")

needs_podman = pytest.mark.skipif(
    not GENERATOR.exists() or shutil.which("systemd-analyze") is None,
    reason="systemd/edge-agent.container is not checked: apt-get install podman systemd",
)


def settings(path: Path, section: str) -> set[str]:
    body = path.read_text("utf-8").split(f"\n[{section}]\n")[1].split("\n[")[0]
    return {line for line in body.splitlines() if re.match(r"\w+=", line)}


@needs_podman
def test_systemd_accepts_what_podman_makes_of_the_unit(tmp_path: Path) -> None:
    text = service().split("---edge-agent.service---\n")[1]
    # systemd knows no sections that begin with X-, and ignores them.
    (tmp_path / "edge-agent.service").write_text(
        re.sub(r"(?<==)/usr/bin/podman ", "/bin/true ", text), encoding="utf-8"
    )
    command = ["systemd-analyze", "verify", str(tmp_path / "edge-agent.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_podman
def test_the_container_has_no_privilege_and_writes_only_its_state() -> None:
    command = re.search(r"^ExecStart=(.*)$", service(), flags=re.MULTILINE)
    assert command is not None
    words = command[1]
    options = ("--read-only ", "--read-only-tmpfs=false", "--cap-drop all", "no-new-privileges", "--pids-limit 256")
    assert all(option in words for option in options)
    assert [mount for mount in re.findall(r"-v (\S+)", words) if not mount.endswith(":ro")] == [
        "/var/lib/edge-agent/state:/var/lib/edge-agent/state:noexec,nosuid,nodev"
    ]
    assert "--privileged" not in words


def test_the_container_has_the_limits_of_the_service() -> None:
    ours, theirs = settings(UNIT, "Service"), settings(ROOT / "systemd" / "edge-agent.service", "Service")
    for name in ("Restart", "RestartSec", "RestartPreventExitStatus", "WatchdogSec", "OOMPolicy", "CPUWeight"):
        assert {line for line in ours if line.startswith(f"{name}=")} & theirs, name
    assert {"MemoryMax=85%", "MemorySwapMax=0"} <= ours & theirs
    # It is in seconds there, and in microseconds here.
    assert "WatchdogSec=30" in ours
    assert "Environment=WATCHDOG_USEC=30000000" in settings(UNIT, "Container")


def test_units_and_compose_name_the_image_of_this_version() -> None:
    assert f"localhost/edge-agent:{VERSION}" == IMAGE
    assert f"image: {IMAGE}\n" in COMPOSE.read_text("utf-8")


def test_files_of_the_host_belong_to_the_account_of_the_image() -> None:
    owner = rf"-o {image.USER} -g {image.USER} "
    assert owner in UNIT.read_text("utf-8")
    assert f"chown -R {image.USER}" in (ROOT / "docs" / "container.md").read_text("utf-8")


def test_compose_mounts_files_that_exist() -> None:
    mounts = re.findall(r"(\.\.?/[\w./-]+):/", COMPOSE.read_text("utf-8"))
    assert len(mounts) == 6
    # A board's bundles are not in the repository.
    assert [path for path in mounts if not (COMPOSE.parent / path).exists()] == ["./models"]


@needs("docker-compose", "docker-compose")
def test_docker_compose_accepts_the_file() -> None:
    # Checks it against the schema of the Compose specification, and what refers to what.
    command = ["docker-compose", "--file", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
