"""arm64 systems of Debian below build/arm; this machine runs their programs with qemu. Needs root."""

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rigs.llama_sources import run_program
from rigs.machine import require

NEEDED = {"mmdebstrap": "mmdebstrap", "qemu-aarch64-static": "qemu-user-static"}
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_QEMU = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
# The same in every root.
PACKAGES = Path("/opt/edge-agent")
# The Python of each suite.
SUITES = {"bookworm": "3.11", "trixie": "3.13"}
# Every board has these.
_INCLUDED = "python3,libstdc++6,dash,coreutils"


def prepare_machine() -> None:
    """Makes the kernel run arm64 programs with qemu. Raises SystemExit, which names what is missing."""
    require(NEEDED, root=True)
    if not (_BINFMT / "status").exists():
        run_program(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)])
    if not (_BINFMT / "qemu-aarch64").exists():
        (_BINFMT / "register").write_bytes(_QEMU.read_bytes())


class Root:
    """A Debian of this suite with edge-agent installed from a wheelhouse."""

    def __init__(self, suite: str, work: Path) -> None:
        self.suite = suite
        self._path = work / suite

    def make(self) -> None:
        """Makes it once. Packages are unpacked but not set up, which takes long if emulated, as Python runs anyway."""
        done = self._path / "complete"
        if done.exists():
            return
        shutil.rmtree(self._path, ignore_errors=True)
        command = ["mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract", f"--include={_INCLUDED}"]
        run_program([*command, self.suite, str(self._path)])
        (self._path / "proc").mkdir()
        for name in ("bin", "lib", "sbin"):
            # A package's script makes them in trixie.
            if not (self._path / name).exists():
                (self._path / name).symlink_to(f"usr/{name}")
        done.touch()

    def install(self, wheelhouse: Path) -> None:
        """Uses this machine's pip, which chooses the wheels that a board's would choose; once for each wheelhouse."""
        requirements = wheelhouse / "requirements.txt"
        target = self.outside(PACKAGES)
        done = target / hashlib.sha256(requirements.read_bytes()).hexdigest()
        if done.exists():
            return
        shutil.rmtree(target, ignore_errors=True)
        platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37))]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-index", "--no-deps"]
        pip += [word for platform in platforms for word in ("--platform", platform)]
        pip += ["--only-binary=:all:", f"--python-version={SUITES[self.suite]}", f"--target={target}"]
        run_program(
            [*pip, f"--find-links={wheelhouse}", "--require-hashes", f"--requirement={requirements}"], os.environ
        )
        done.touch()

    def outside(self, path: Path) -> Path:
        """The path on this machine of a path in the root."""
        return self._path / path.relative_to("/")

    def python(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        """The output of Python with edge-agent, which sees /proc. Raises SystemExit if it fails."""
        # The mount ends with the program.
        inside = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={self._path}/proc", "chroot", str(self._path)]
        given = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(PACKAGES),
            **environment,
        }
        return run_program([*inside, "python3", *words], given)
