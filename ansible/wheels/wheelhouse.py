"""All wheels of boards and PCs for Python 3.11 to 3.13: `wheelhouse.py aarch64|x86_64` → dist/wheelhouse/<arch>.

lock.txt has their versions and hashes. `wheelhouse.py lock` writes it anew with the newest that all boards can install.
The folder's `requirements.txt` names each by version and hash. A board without a package index installs exactly these:
`pip install --no-index --find-links DIR --require-hashes --requirement DIR/requirements.txt`.
The folder `pc` in it has what a PC needs besides, for the page and the demonstration, and the demonstration's model;
`demo.sh` beside it installs both and runs the demonstration.
Needs the wheel of llama-cpp-python in dist/, which `make wheelhouse` builds. Exit code 1 if a wheel is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from zipfile import ZipFile

from packaging.metadata import Metadata
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from edge_agent.tools.demo.demo import convert_checkpoint

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "ansible" / "wheels" / "lock.txt"
# The versions of what builds packages. pip 25.3 and later read the second variable.
_TOOLS = dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), str(ROOT / "ansible" / "wheels" / "tools.txt"))
ARCHITECTURES = ("aarch64", "x86_64")
# The oldest comes first, because its versions work for the others, too, so that all boards run the same.
PYTHONS = ((3, 11), (3, 12), (3, 13))
# The minor version of Ubuntu 22.04's glibc.
_GLIBC_MINOR = 35
# The oldest time that zip can hold, so that equal contents make equal wheels.
_EPOCH = "315532800"
# The agent's extras that a board may need, for llama.cpp, and for RabbitMQ's client in a pool.
EXTRAS = ("engine", "pool")
# Those that a PC may need, for llama.cpp, the page, and a broker for the demonstration.
PC_EXTRAS = ("engine", "web", "broker")


def main() -> int:
    parser = argparse.ArgumentParser(prog="wheelhouse.py", description=__doc__)
    parser.add_argument("arch", choices=(*ARCHITECTURES, "lock"), help="lock: writes lock.txt")
    arch: str = parser.parse_args().arch
    # The modes of files are in a wheel.
    os.umask(0o022)
    work = ROOT / "build" / "wheelhouse" / arch
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return _lock(work) if arch == "lock" else _wheelhouse(work, arch)


def _lock(work: Path) -> int:
    """All architectures and Pythons get the same versions, because one folder takes the wheels of all."""
    agent = _agent_wheel(work)
    llama = _stand_in_for_llama(work)
    for arch in ARCHITECTURES:
        for python in PYTHONS:
            _download(work, arch, python, agent, {*EXTRAS, *PC_EXTRAS})
    wheels = [wheel for wheel in work.glob("*.whl") if wheel not in (agent, llama)]
    LOCK.write_text(requirements(wheels), encoding="utf-8")
    shutil.rmtree(work)
    print(f"{LOCK.relative_to(ROOT)}: {len(wheels)} wheels")
    return 0


def _stand_in_for_llama(work: Path) -> Path:
    """A wheel without content. pip reads from it what the installed llama-cpp-python needs; nothing is compiled."""
    there = importlib.metadata.distribution("llama-cpp-python")
    folder = f"llama_cpp_python-{there.version}.dist-info"
    wheel = work / f"llama_cpp_python-{there.version}-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr(f"{folder}/METADATA", there.read_text("METADATA") or "")
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{folder}/RECORD", "")
    return wheel


def _wheelhouse(work: Path, arch: str) -> int:
    target = ROOT / "dist" / "wheelhouse" / arch
    agent = _agent_wheel(work)
    llama = Path(shutil.copy(_llama_wheel(arch), work))
    lock, pc = LOCK.read_text("utf-8"), work / "pc"
    locked = re.findall(r"^\S+==\S+", lock, flags=re.MULTILINE)
    for python in PYTHONS:
        _download(work, arch, python, agent, EXTRAS, locked)
    boards = sorted(work.glob("*.whl"))
    for python in PYTHONS:
        _download(pc, arch, python, agent, PC_EXTRAS, locked, beside=work)
    on_pc = sorted(pc.glob("*.whl"))
    faults = [fault for python in PYTHONS for fault in missing(boards, arch, python)]
    faults += [fault for python in PYTHONS for fault in missing(on_pc, arch, python, PC_EXTRAS)]
    faults += unlocked([wheel for wheel in (*boards, *on_pc) if wheel.name not in (agent.name, llama.name)], lock)
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    (work / "requirements.txt").write_text(requirements(boards), encoding="utf-8")
    (pc / "requirements.txt").write_text(requirements(on_pc), encoding="utf-8")
    for wheel in boards:
        (pc / wheel.name).unlink(missing_ok=True)
    convert_checkpoint(pc)
    shutil.copy(ROOT / "ansible" / "wheels" / "demo.sh", work)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    work.rename(target)
    size_mb = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    print(f"{target.relative_to(ROOT)}: {len(boards)} wheels for boards, {size_mb:.1f} MB in all")
    return 0


def _agent_wheel(work: Path) -> Path:
    # Built from a copy, because setuptools would also pack what an earlier build left beside the sources.
    source = work / "source"
    for name in ("edge_agent", "convert"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    if commit := _commit():
        (source / "edge_agent" / "COMMIT").write_text(f"{commit}\n", encoding="utf-8")
    _pip("wheel", "--no-deps", "--wheel-dir", str(work), str(source))
    shutil.rmtree(source)
    return next(work.glob("edge_agent-*.whl"))


def _commit() -> str | None:
    """The commit, with `-dirty` if a file differs from it; None in a source package."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--match=", "--dirty"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or None


def _llama_wheel(arch: str) -> Path:
    found = sorted((ROOT / "dist").glob(f"llama_cpp_python-*_{arch}.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SystemExit(f"no wheel of llama-cpp-python for {arch} in dist/: make wheelhouse ARCH={arch}")
    return found[-1]


def _download(
    work: Path,
    arch: str,
    python: tuple[int, int],
    agent: Path,
    extras: Iterable[str],
    locked: Sequence[str] = (),
    beside: Path | None = None,
) -> None:
    """Keeps the versions that were downloaded for an earlier Python, and those that are locked.

    The wheels in the folder `beside` are copied instead of downloaded.
    """
    work.mkdir(exist_ok=True)
    constraints = work / "constraints.txt"
    there = {parse_wheel_filename(path.name)[:2] for path in work.glob("*.whl")}
    lines = {*locked, *(f"{name}=={version}" for name, version in there)}
    constraints.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
    platforms = [word for platform in _platforms(arch) for word in ("--platform", platform)]
    version = ".".join(map(str, python))
    _pip(
        *("download", "--dest", str(work), "--find-links", str(beside or work), "--constraint", str(constraints)),
        *("--only-binary", ":all:", "--python-version", version, "--implementation", "cp", *platforms),
        f"{agent}[{','.join(sorted(extras))}]",
    )
    constraints.unlink()


def _platforms(arch: str) -> list[str]:
    """The platform tags that pip accepts on a board, best first."""
    return [f"manylinux_2_{minor}_{arch}" for minor in range(_GLIBC_MINOR, 16, -1)] + [f"manylinux2014_{arch}"]


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, env={**os.environ, **_TOOLS, "SOURCE_DATE_EPOCH": _EPOCH})


def missing(wheels: Sequence[Path], arch: str, python: tuple[int, int], extras: Sequence[str] = EXTRAS) -> list[str]:
    """Requirements that no wheel meets on a board. pip itself would check for the Python that it runs in."""
    platforms = _platforms(arch)
    tags = {*cpython_tags(python, platforms=platforms), *compatible_tags(python, platforms=platforms)}
    here = {name: path for path in wheels for name, _, _, of in [parse_wheel_filename(path.name)] if of & tags}
    environment = {
        "python_version": ".".join(map(str, python)),
        "python_full_version": ".".join(map(str, (*python, 0))),
        "platform_machine": arch,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }
    faults = []
    for name, path in sorted(here.items()):
        for requirement in _metadata(path).requires_dist or []:
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in extras):
                needed = canonicalize_name(requirement.name)
                found = here.get(needed)
                if found is None or parse_wheel_filename(found.name)[1] not in requirement.specifier:
                    faults.append(f"Python {environment['python_version']} on {arch}: {name} needs {requirement}")
    return faults


def unlocked(wheels: Sequence[Path], lock: str) -> list[str]:
    """Wheels whose hash the lock file does not have, as a dependency is newer than it, or an index gave other bytes."""
    hashes = set(re.findall(r"--hash=sha256:(\w+)", lock))
    return [
        f"not in lock.txt: {wheel.name}; make lock"
        for wheel in wheels
        if hashlib.sha256(wheel.read_bytes()).hexdigest() not in hashes
    ]


def _metadata(wheel: Path) -> Metadata:
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Metadata.from_email(archive.read(name), validate=False)


def requirements(wheels: Sequence[Path]) -> str:
    """The text of requirements.txt with hashes; the same wheels give the same text."""
    hashes: defaultdict[tuple[NormalizedName, Version], set[str]] = defaultdict(set)
    for wheel in wheels:
        name, version, _, _ = parse_wheel_filename(wheel.name)
        hashes[name, version].add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    return "".join(
        f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{hash_}" for hash_ in sorted(found)) + "\n"
        for (name, version), found in sorted(hashes.items())
    )


if __name__ == "__main__":
    raise SystemExit(main())
