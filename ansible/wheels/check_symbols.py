"""Whether libraries run on systems as old as promised: `check_symbols.py FOLDER ARCH --glibc 2.35 --glibcxx 3.4.30`.

Checks every ELF file below FOLDER with binutils' readelf. It must be for ARCH, need no newer symbol versions, and only
libraries beside it or of every Debian system. Exit code 1 if one does not, with its name.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

_MACHINES = {"aarch64": "AArch64", "x86_64": "Advanced Micro Devices X86-64"}
_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
# A line of the section of needed versions; a library's own versions are in another section.
_VERSION = re.compile(r"Name: (GLIBC|GLIBCXX)_(\d+(?:\.\d+)*)\b")
_EVERYWHERE = re.compile(r"(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux-[\w-]+)\.so\.\d+")

Version = tuple[int, ...]


def main() -> int:
    parser = argparse.ArgumentParser(prog="check_symbols.py", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("arch", choices=_MACHINES)
    parser.add_argument("--glibc", type=_version, required=True)
    parser.add_argument("--glibcxx", type=_version, required=True)
    given = parser.parse_args()
    allowed = {"GLIBC": given.glibc, "GLIBCXX": given.glibcxx}
    files = sorted(path for path in given.folder.rglob("*.so*") if path.is_file())
    beside = {path.name for path in files}
    newest: dict[str, Version] = {}
    faults = [f"{given.folder} holds no library"] if not files else []
    for path in files:
        text = _read_elf(path)
        if f"Machine: {_MACHINES[given.arch]}" not in " ".join(text.split()):
            faults.append(f"{path.name} is not for {given.arch}")
        faults += [
            f"{path.name} needs {name}, which is neither beside it nor on every system"
            for name in _NEEDED.findall(text)
            if name not in beside and not _EVERYWHERE.fullmatch(name)
        ]
        for kind, version in _needed_versions(text):
            newest[kind] = max(newest.get(kind, ()), version)
            if version > allowed[kind]:
                faults.append(f"{path.name} needs {kind} {_text(version)}, newer than {_text(allowed[kind])}")
    for fault in faults:
        print(fault)
    needs = ", ".join(f"{kind} {_text(version)}" for kind, version in sorted(newest.items()))
    print(f"{len(files)} libraries for {given.arch} need {needs}")
    return 1 if faults else 0


def _read_elf(path: Path) -> str:
    command = ["readelf", "--wide", "--file-header", "--dynamic", "--version-info", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout


def _needed_versions(text: str) -> Iterator[tuple[str, Version]]:
    _, _, needs = text.partition("Version needs section")
    for kind, version in _VERSION.findall(needs):
        yield kind, _version(version)


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


def _text(version: Version) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    raise SystemExit(main())
