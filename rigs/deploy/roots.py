"""Boards to install things on: a Debian or Ubuntu with systemd, booted in a container, as root.

Images are made once, below build/roots, in some minutes each. A board is an image under its own layer, which lasts
until it is discarded:

    with Board(image("bookworm"), folder, name="board1") as board:
        board.run("systemctl", "is-system-running")
"""

import os
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rigs.machine import ROOT
from tests.helpers.processes import ends

IMAGES = ROOT / "build" / "roots"
BOOT_S = 120.0
# Debian's package for each program that this machine needs, as root; for Ubuntu's boards ubuntu-keyring, too.
NEEDED = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "ca-certificates", "iproute2", "procps"),
    # A llama.cpp that is built with OpenMP needs libgomp1.
    *("mosquitto", "mosquitto-clients", "libgomp1"),
)
# systemd's tree of cgroups of version 2, beside version 1 where this machine has both.
_CGROUP_MOUNTS = [path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")) if path.is_dir()]
_ENTER = ("nsenter", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    python: str
    """The newest Python of the release."""
    python_packages: tuple[str, ...]
    """The packages that bring it."""
    components: str = "main"
    """The components of the release's archive."""


RELEASES = {
    "bookworm": Release(python="3.11", python_packages=("python3", "python3-venv")),
    "trixie": Release(python="3.13", python_packages=("python3", "python3-venv")),
    "jammy": Release(
        python="3.11",
        # Ansible runs with python3, which is 3.10.
        python_packages=("python3", "python3.11", "python3.11-venv"),
        components="main,universe",
    ),
}


def image(name: str, images: Path = IMAGES, packages: tuple[str, ...] = ()) -> Path:
    """The root of a release and these packages, made once. Neither mosquitto nor sshd starts with it."""
    root = images / "+".join((name, *packages))
    if root.is_dir():
        return root
    release = RELEASES[name]
    images.mkdir(parents=True, exist_ok=True)
    partial = images / f"{name}.{os.getpid()}"
    included = ",".join((*_PACKAGES, *release.python_packages, *packages))
    hooks = (
        'systemctl --root="$1" --quiet disable ssh mosquitto',
        # A board gets its identity at its first boot, and its name from us.
        'rm -f "$1"/etc/machine-id "$1"/etc/hostname "$1"/etc/resolv.conf; touch "$1"/etc/machine-id',
    )
    command = ["mmdebstrap", "--quiet", "--mode=root", "--arch=amd64", "--variant=minbase"]
    command += [f"--components={release.components}", f"--include={included}"]
    command += [f"--customize-hook={hook}" for hook in hooks]
    try:
        subprocess.run([*command, name, str(partial)], check=True)
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


class Board:
    """One container. Its root (`root`) can be read and written while it runs.

    It is mounted below the folder, which pytest must not remove meanwhile. With `has_own_network` it has only a
    loopback, else this machine's network. The options are those of systemd-nspawn.
    """

    def __init__(
        self, lower: Path, folder: Path, *, name: str, has_own_network: bool = True, options: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.root = folder / name / "root"
        self.log = folder / name / "console.log"
        # Several tests may run a board of this name at once.
        self._machine = f"{name}-{os.getpid()}"
        self._lower = lower
        self._options = (*options, *(("--private-network",) if has_own_network else ()))
        self._container: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when systemd has booted."""
        self._mount()
        # Its own cgroup, or the services of two boards would mix.
        enter = ""
        for path in self._cgroups():
            path.mkdir(exist_ok=True)
            enter += f"echo $$ > {path}/cgroup.procs; "
        command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self._machine}", "--boot"]
        command += [f"--hostname={self.name}", "--register=no", "--keep-unit", "--console=pipe", *self._options]
        with self.log.open("ab") as log:
            self._container = subprocess.Popen(
                # The board ends when this process ends.
                ["sh", "-e", "-c", f'{enter}exec setpriv --pdeathsig TERM "$@"', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # systemd 257 refuses to start with cgroup v1, which this machine may have.
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        give_up_at = time.monotonic() + BOOT_S
        while not self._is_up():
            if self._container.poll() is not None or time.monotonic() > give_up_at:
                raise AssertionError(f"{self.name} does not boot; its console:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Shuts down like `poweroff`. Files stay."""
        container, self._container = self._container, None
        if container is not None:
            ends(container, BOOT_S)

    def reboot(self) -> None:
        self.stop()
        self.start()

    def discard(self) -> None:
        """Stops the board and removes its files."""
        self.stop()
        if self.root.is_mount():
            subprocess.run(["umount", str(self.root)], check=True)
        for path in self._cgroups():
            for folder, _, _ in os.walk(path, topdown=False):
                Path(folder).rmdir()
        shutil.rmtree(self.root.parent, ignore_errors=True)

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 60.0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command as root on the board. Raises AssertionError with its output if it fails and `check` is set."""
        done = subprocess.run(
            [*_ENTER, f"--target={self._leader()}", *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=_ENVIRONMENT,
            check=False,
        )
        if check and done.returncode:
            output = f"{done.stdout}{done.stderr}"
            raise AssertionError(f"{self.name}: {shlex.join(command)} ended with {done.returncode}:\n{output}")
        return done

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _mount(self) -> None:
        if self.root.is_mount():
            return
        upper, work = self.root.with_name("upper"), self.root.with_name("work")
        for path in (self.root, upper, work):
            path.mkdir(parents=True, exist_ok=True)
        (upper / "etc").mkdir(exist_ok=True)
        (upper / "etc" / "hostname").write_text(f"{self.name}\n", encoding="ascii")
        hosts = f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost\n"
        (upper / "etc" / "hosts").write_text(hosts, encoding="ascii")
        layers = f"lowerdir={self._lower},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)], check=True)

    def _cgroups(self) -> list[Path]:
        return [mount / self._machine for mount in _CGROUP_MOUNTS or [Path("/sys/fs/cgroup")]]

    def _leader(self) -> int:
        """The process with number 1 on the board."""
        assert self._container is not None, "the board is not running"
        children = Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children").read_text(encoding="ascii")
        return int(children.split()[-1])

    def _is_up(self) -> bool:
        try:
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        except (OSError, IndexError, AssertionError):
            return False
        return state in ("running", "degraded")
