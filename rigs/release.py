"""Runs README.md's commands for the demonstration with a release's wheelhouse alone: `rigs.release TAR`. Needs root.

The machine is a Debian 13 without a network, a compiler, a broker or this repository; for aarch64 it runs with qemu.
Exit code 1 if it does not answer every reading.
"""

import re
import shutil
import time
from pathlib import Path

from rigs.arm.roots import prepare_machine
from rigs.llama_sources import run_program
from rigs.machine import ROOT, parser_of, require

NEEDED = {"mmdebstrap": "mmdebstrap", "ip": "iproute2", "unshare": "util-linux"}
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_MUST_BE_ABSENT = ("cc", "g++", "make", "mosquitto", "git")


def main() -> int:
    parser = parser_of("rigs.release", __doc__)
    parser.add_argument("tar", type=Path, help="edge_agent-VERSION-wheelhouse-ARCH.tar")
    given = parser.parse_args()
    match = re.fullmatch(r"edge_agent-(.+)-wheelhouse-(x86_64|aarch64)\.tar", given.tar.name)
    if match is None:
        parser.error(f"TAR: should be edge_agent-VERSION-wheelhouse-ARCH.tar (got {given.tar.name})")
    version, arch = match.groups()
    require(NEEDED, root=True)
    if arch == "aarch64":
        prepare_machine()
    system = _system(ROOT / "build" / "release-demo" / arch, DEBIAN[arch])
    if present := [name for name in _MUST_BE_ABSENT if (system / "usr" / "bin" / name).exists()]:
        raise SystemExit(f"the machine has {', '.join(present)}")
    home = system / "root"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    shutil.copy(given.tar, home)
    commands = _commands(version, arch)
    print("\n".join(f"$ {line}" for line in commands), flush=True)
    began = time.monotonic()
    output = run_program(
        [*_inside(system), "sh", "-ec", "\n".join(["cd /root", *commands])], {"PATH": "/usr/bin:/usr/sbin"}
    )
    print(output)
    answered = output.count(" yes ")
    print(f"{answered} readings answered correctly, {time.monotonic() - began:.0f} s for both commands on {arch}")
    return 0 if answered >= 12 else 1


def _commands(version: str, arch: str) -> list[str]:
    """README.md's commands, for this architecture."""
    text = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"```sh\n(tar -xf edge_agent-[^`]*demo\.sh[^`]*)```", text)
    assert block is not None
    lines = [line.split("#")[0].strip() for line in block[1].splitlines()]
    return [re.sub(r"edge_agent-[\d.]+-", f"edge_agent-{version}-", line.replace("x86_64", arch)) for line in lines]


def _system(path: Path, debian_arch: str) -> Path:
    """Makes the Debian once, which takes minutes when emulated."""
    done = path.with_suffix(".complete")
    if not done.exists():
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["mmdebstrap", "--quiet", f"--arch={debian_arch}", "--variant=minbase", "--include=python3-venv"]
        run_program([*command, "trixie", str(path)])
        done.touch()
    return path


def _inside(system: Path) -> list[str]:
    """How a command is run there, with no network but a loopback of its own. Mounts and processes end with it."""
    script = (
        'ip link set lo up; mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"; system=$0; '
        'exec chroot "$system" env HOME=/root LC_ALL=C.UTF-8 "$@"'
    )
    return ["unshare", "--mount", "--pid", "--net", "--fork", "sh", "-ec", script, str(system)]


if __name__ == "__main__":
    raise SystemExit(main())
