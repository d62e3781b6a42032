"""A whole arm64 board in an emulator: a Debian with its own kernel, which a container does not have.

Here the kernel's limits on memory and devices hold. Emulated time says nothing about a board.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from edge_agent.tools.demo.broker import free_port
from rigs.arm.roots import prepare_machine
from rigs.deploy.roots import IMAGES, checked

# Debian's package for each program that this machine needs, as root.
NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-aarch64-static": "qemu-user-static",
}
BOOT_S = 600.0
# This machine in the emulator's network.
HOST = "10.0.2.2"
# A Raspberry Pi 5's cores and its smallest memory.
CPU, CORES, MEMORY = "cortex-a76", 2, "2G"
_RELEASE = "trixie"
_PACKAGES = (
    *("linux-image-cloud-arm64", "initramfs-tools", "systemd", "systemd-sysv", "udev", "dbus", "openssh-server"),
    *("sudo", "procps", "python3", "python3-venv"),
)
_NETWORK = "[Match]\nType=ether\n[Network]\nDHCP=ipv4\n"
_ACCOUNT = """
useradd --create-home --shell=/bin/bash --uid=1000 pi
install -d -o pi -g pi -m 700 /home/pi/.ssh
echo 'pi ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/pi
"""
_KEYS = "/home/pi/.ssh/authorized_keys"
_FSTAB = "/dev/vda / ext4 rw,noatime 0 1\n"


def image(images: Path = IMAGES) -> Path:
    """A folder with `disk`, `kernel` and `initrd`, made once. It takes long: packages are set up under emulation."""
    folder = images / f"{_RELEASE}-arm64"
    if folder.is_dir():
        return folder
    prepare_machine()
    partial = images / f"{_RELEASE}-arm64.{os.getpid()}"
    root = partial / "root"
    partial.mkdir(parents=True)
    command = ["mmdebstrap", "--quiet", "--mode=root", "--arch=arm64", "--variant=minbase"]
    try:
        subprocess.run([*command, f"--include={','.join(_PACKAGES)}", _RELEASE, str(root)], check=True)
        (root / "etc/fstab").write_text(_FSTAB, "ascii")
        (root / "etc/systemd/network/board.network").write_text(_NETWORK, "ascii")
        subprocess.run(["systemctl", f"--root={root}", "--quiet", "enable", "systemd-networkd"], check=True)
        subprocess.run(["chroot", str(root), "sh", "-e", "-c", _ACCOUNT], check=True)
        for name in ("machine-id", "hostname", "resolv.conf"):
            (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc/machine-id").touch()
        for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*-arm64")):
            (found,) = (root / "boot").glob(pattern)
            shutil.copy(found, partial / name)
        command = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(partial / "disk"), "4G"]
        subprocess.run(command, check=True)
        shutil.rmtree(root)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


class EmulatedBoard:
    """Reached by ssh with a key, as the account `pi`, which may become root.

    folder: for its disk, some GB. cpu: qemu's name of its cores. options: more for qemu.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        key: Path,
        *,
        cpu: str = CPU,
        cores: int = CORES,
        options: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder / f"{name}.console"
        self._disk = folder / f"{name}.disk"
        self._key = key
        self._cores = ["-cpu", cpu, "-smp", str(cores)]
        self._options = options
        self._machine: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when systemd has booted."""
        made = image()
        if not self._disk.exists():
            self._make_disk(made / "disk")
        command = ["qemu-system-aarch64", "-machine", "virt", *self._cores, "-m", MEMORY]
        command += ["-kernel", str(made / "kernel"), "-initrd", str(made / "initrd")]
        command += ["-append", "root=/dev/vda rw console=ttyAMA0 quiet", "-nographic", "-no-reboot"]
        command += ["-drive", f"file={self._disk},format=raw,if=virtio,cache=unsafe"]
        command += ["-netdev", f"user,id=net,restrict=off,hostfwd=tcp:127.0.0.1:{self.port}-:22"]
        command += ["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci", *self._options]
        with self.log.open("ab") as log:
            self._machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up_at = time.monotonic() + BOOT_S
        while not self._is_up():
            if self._machine.poll() is not None or time.monotonic() > give_up_at:
                raise AssertionError(f"{self.name} does not boot; its console:\n{self.log.read_text()[-2000:]}")
            time.sleep(1)

    def stop(self) -> None:
        """Shuts the board down."""
        machine, self._machine = self._machine, None
        if machine is None:
            return
        if machine.poll() is None:
            self._ssh("sudo", "systemctl", "poweroff", timeout_s=60)
        try:
            machine.wait(BOOT_S)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait()

    def reboot(self) -> None:
        self.stop()
        self.start()

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 300.0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command as root on the board. Raises AssertionError with its output if it fails and `check` is set."""
        done = self._ssh("sudo", *command, timeout_s=timeout_s, stdin=stdin)
        return checked(self.name, command, done) if check else done

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._disk.unlink(missing_ok=True)

    def _make_disk(self, made: Path) -> None:
        """A copy of the image's disk with this board's name and the key that may log in."""
        subprocess.run(["cp", "--sparse=always", str(made), str(self._disk)], check=True)
        work = self._disk.with_suffix(".files")
        work.mkdir()
        files = {
            "/etc/hostname": f"{self.name}\n",
            "/etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost\n{HOST} broker.example\n",
            _KEYS: self._key.with_suffix(".pub").read_text("ascii"),
        }
        asked = ["rm /etc/hosts"]
        for number, (path, text) in enumerate(files.items()):
            source = work / str(number)
            source.write_text(text, "ascii")
            asked += [f"cd {Path(path).parent}", f"write {source} {Path(path).name}", f"sif {path} mode 0100644"]
        asked += [f"sif {_KEYS} {field} 1000" for field in ("uid", "gid")]
        edit = ["debugfs", "-w", "-f", "-", str(self._disk)]
        subprocess.run(edit, input="\n".join(asked), text=True, capture_output=True, check=True)
        shutil.rmtree(work)

    def _ssh(self, *command: str, timeout_s: float, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        options += ["-o", "ConnectTimeout=20", "-i", str(self._key), "-p", str(self.port)]
        return subprocess.run(
            ["ssh", *options, "pi@127.0.0.1", shlex.join(command)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _is_up(self) -> bool:
        try:
            state = self._ssh("systemctl", "is-system-running", timeout_s=60)
        except subprocess.TimeoutExpired:
            return False
        return state.stdout.strip() in ("running", "degraded")
