"""Boards that Ansible reaches over ssh, their broker, and a technician's working folder."""

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rigs.deploy.roots import RELEASES, Board, image
from rigs.machine import ROOT
from tests.helpers.certificates import CERTIFICATE, KEY
from tests.helpers.processes import Mosquitto, free_port
from tests.helpers.support import loaded

ANSIBLE = ROOT / "ansible"
# `make build/ansible/ready` installs it.
ANSIBLE_BIN = Path(os.environ.get("ANSIBLE_BIN", ROOT / "build" / "ansible" / "bin"))
PLAY_S = 1800.0
RELEASE = os.environ.get("RELEASE") or "trixie"
password_file = loaded(ANSIBLE / "filter_plugins/edge_agent_accounts.py").password_file
_RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PlayResult:
    """How a run of a playbook ended."""

    code: int
    text: str

    @property
    def boards(self) -> dict[str, str]:
        """Whether each board that was begun is "unreachable", "failed", "changed" or "same"."""
        ends = {}
        for name, changed, unreachable, failed in _RECAP.findall(self.text):
            others = "changed" if int(changed) else "same"
            ends[name] = "unreachable" if int(unreachable) else "failed" if int(failed) else others
        return ends


class Broker(Mosquitto):
    """mosquitto with a source tree's sample configuration and access list, and a password for each name."""

    def __init__(self, folder: Path, passwords: dict[str, str], source: Path = ROOT) -> None:
        folder.mkdir()
        super().__init__(folder, free_port())
        for name, text in (("ca.pem", CERTIFICATE), ("broker.pem", CERTIFICATE), ("broker.key", KEY)):
            (folder / name).write_text(text, "ascii")
        (folder / "passwords").write_text(password_file(passwords, ""), "ascii")
        samples = source / "ansible" / "files" / "mosquitto"
        text = (samples / "edge-agent.conf").read_text("utf-8")
        text = text.replace("/etc/mosquitto/certs", str(folder)).replace("/etc/mosquitto", str(folder))
        text = text.replace("listener 8883", f"listener {self.port} 127.0.0.1")
        # Like Debian's own mosquitto.conf, and as a user that can read this folder.
        kept = f"persistence true\npersistence_location {folder}/\nuser {getpass.getuser()}\n"
        self._config.write_text(f"{kept}{text}", "utf-8")
        shutil.copy(samples / "edge-agent.acl", folder)


class SshBoard(Board):
    """A board with an account `pi` that may become root, reached by a key on a port of 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(image(RELEASE), folder, name=name, has_own_network=False)
        self.port = free_port()

    def admit(self, public_key: str) -> None:
        """Sets the account and the ssh server up on a running board."""
        self.run("useradd", "--create-home", "--shell=/bin/bash", "pi")
        self.run("mkdir", "-p", "/home/pi/.ssh", "/etc/ssh/sshd_config.d")
        for path, text in (
            ("/home/pi/.ssh/authorized_keys", public_key),
            ("/etc/sudoers.d/pi", "pi ALL=(ALL) NOPASSWD: ALL\n"),
            ("/etc/ssh/sshd_config.d/port.conf", f"Port {self.port}\nListenAddress 127.0.0.1\n"),
        ):
            self.run("tee", path, stdin=text)
        self.run("chown", "-R", "pi:pi", "/home/pi/.ssh")
        self.run("systemctl", "enable", "--now", "ssh")

    def files(self) -> set[str]:
        """Every path but logs, backups, caches, and the folders in which the system's timers and Ansible work."""
        skipped = (
            "/proc /sys /dev /run /tmp /var/tmp /var/log /var/cache /var/backups /var/lib/apt /var/lib/systemd "
            "/home/pi/.cache /home/pi/.ansible /root/.ansible"
        )
        prune = [word for path in skipped.split() for word in ("-path", path, "-prune", "-o")]
        found = self.run("find", "/", "-xdev", *prune, "-print").stdout.splitlines()
        return {path for path in found if not re.fullmatch(r"/etc/.*(-|\.lock)", path)}


class Fleet:
    """The technician's side: a copy of `ansible/` with an inventory of these boards and of missing ones."""

    def __init__(self, folder: Path, boards: Sequence[SshBoard], broker: Broker, missing: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.boards = boards
        self.broker = broker
        self._missing = missing
        self.key = folder / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text("ascii")

    def prepare(self, bundle: Path, wheelhouse: Path, *commands: str, source: Path = ROOT) -> None:
        """Makes the technician's part of a source tree, runs these commands of docs/fleet.md, and makes its edits."""
        self.use_source(source)
        (self.repository / "dist" / "wheelhouse").mkdir(parents=True)
        self.use_wheelhouse(wheelhouse)
        for command in commands:
            done = self.run(command)
            assert done.code == 0, f"{command}: {done.text}"
        (self.plant / "ca.pem").write_text(CERTIFICATE, "ascii")
        hosts = {board.name: board.port for board in self.boards} | dict.fromkeys(self._missing, free_port())
        lines = [f"    {name}: {{ansible_host: 127.0.0.1, ansible_port: {port}}}\n" for name, port in hosts.items()]
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=20"
        variables = f"  vars:\n    ansible_user: pi\n    ansible_ssh_private_key_file: {self.key}\n"
        (self.plant / "hosts.yml").write_text(
            f"boards:\n  hosts:\n{''.join(lines)}{variables}    ansible_ssh_common_args: {options}\n", "utf-8"
        )
        self.edit("host: broker.example", f"host: localhost\n  port: {self.broker.port}")
        self.use_bundle(bundle)
        python = f"python{RELEASES[RELEASE].python}"
        if python in RELEASES[RELEASE].python_packages:
            self.edit("edge_agent_site: hall1", f"edge_agent_site: hall1\nedge_agent_python: /usr/bin/{python}")

    def use_source(self, source: Path) -> None:
        """Takes the playbooks and the unit of a source tree. The plant's own folder stays."""
        kept = self.plant.rename(self.folder / "plant") if self.plant.is_dir() else None
        for name in ("ansible", "systemd"):
            shutil.rmtree(self.repository / name, ignore_errors=True)
            shutil.copytree(source / name, self.repository / name)
        if kept is not None:
            kept.rename(self.plant)

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def plant(self) -> Path:
        return self.repository / "ansible" / "plant"

    def edit(self, old: str, new: str) -> None:
        """Changes the variables that all boards share."""
        path = self.plant / "group_vars" / "boards" / "main.yml"
        text = path.read_text("utf-8")
        assert old in text, f"{path} has no {old!r}:\n{text}"
        path.write_text(text.replace(old, new), "utf-8")

    @contextmanager
    def edited(self, *edits: tuple[str, str]) -> Iterator[None]:
        """Makes these edits, and undoes them at the end."""
        for old, new in edits:
            self.edit(old, new)
        try:
            yield
        finally:
            for old, new in edits:
                self.edit(new, old)

    def use_bundle(self, bundle: Path) -> None:
        path = self.plant / "group_vars" / "boards" / "main.yml"
        text = re.sub(
            r"^edge_agent_bundle: .*$", f"edge_agent_bundle: {bundle}", path.read_text("utf-8"), flags=re.MULTILINE
        )
        path.write_text(text, "utf-8")

    def use_wheelhouse(self, wheelhouse: Path) -> None:
        link = self.repository / "dist" / "wheelhouse" / "x86_64"
        link.unlink(missing_ok=True)
        link.symlink_to(wheelhouse)

    def read_passwords(self) -> dict[str, str]:
        """What credentials.yml has put into the vault, by account."""
        text = self.run("ansible-vault view plant/group_vars/boards/vault.yml").text
        return dict(re.findall(r"^ +(\S+): (\S+)$", text, flags=re.MULTILINE))

    def started(self, command: str) -> subprocess.Popen[str]:
        """Starts a command in `ansible/`, with Ansible on the PATH, as the leader of its process group."""
        vault = self.folder / "vault-password"
        vault.write_text("open sesame\n", "ascii")
        environment = {
            **os.environ,
            "PATH": f"{ANSIBLE_BIN}:{os.environ['PATH']}",
            "ANSIBLE_VAULT_PASSWORD_FILE": str(vault),
            "ANSIBLE_NOCOLOR": "1",
            "HOME": str(self.folder),
        }
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.repository / "ansible",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> PlayResult:
        """Runs a playbook's command to its end."""
        with self.started(command) as process:
            text, _ = process.communicate(timeout=PLAY_S)
        return PlayResult(process.returncode, text)
