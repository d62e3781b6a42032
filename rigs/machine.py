"""What a rig needs of the machine that it runs on."""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from edge_agent.board.process import process_memory
from edge_agent.core.extras import missing_extra

ROOT = Path(__file__).parents[1]
RELEASE_0_1_0 = "6f95c07"
# The source trees of commits, by their names.
SOURCES = ROOT / "build" / "sources"
# Debian keeps servers out of an ordinary account's PATH.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def require(packages: Mapping[str, str], *, root: bool = False) -> None:
    """Raises SystemExit, which names what this machine lacks. `packages` names Debian's package for each program."""
    faults = ["needs root"] if root and os.geteuid() != 0 else []
    lacking = [package for program, package in packages.items() if shutil.which(program, path=SEARCH_PATH) is None]
    if lacking:
        faults.append(f"needs the packages {' '.join(dict.fromkeys(lacking))}: apt-get install them")
    if faults:
        raise SystemExit(f"this rig {'; '.join(faults)}")


def unpack_source(commit: str) -> Path:
    """The source tree of a commit, in SOURCES. Raises SystemExit if the history does not have it."""
    tree = SOURCES / commit
    tree.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise SystemExit(f"this rig needs the commit {commit} in the history: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "--extract", "--directory", str(tree)], input=archive.stdout, check=True)
    return tree


@contextmanager
def kept_or_temporary(folder: Path | None) -> Iterator[Path]:
    """The given folder, which stays, or a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        chosen = folder or Path(temporary)
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen


def held_mib(pid: int) -> float:
    """Memory of a process and its descendants, without pages of files."""
    return sum(memory.held_mib for one in _family(pid) if (memory := process_memory(one.pid)) is not None)


def cpu_s(pid: int) -> float:
    """CPU time of a process and its living descendants."""
    times = [one.cpu_times() for one in _family(pid)]
    return sum(one.user + one.system for one in times)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def run_tests(*words: str, environment: Mapping[str, str] | None = None) -> int:
    """The exit code of pytest with these arguments, in the repository."""
    command = [sys.executable, "-m", "pytest", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, check=False).returncode


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, which shows the description as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run_command(package: str, description: str | None, commands: Sequence[str]) -> int:
    """Runs `python -m PACKAGE COMMAND …`: the module of that name reads the other arguments; returns its exit code."""
    parser = parser_of(package, description)
    parser.add_argument("command", choices=commands)
    given = parser.parse_args(sys.argv[1:2])
    try:
        return int(importlib.import_module(f"{package}.{given.command}").main(sys.argv[2:]))
    except ModuleNotFoundError as error:
        if missing := missing_extra("train"):
            raise SystemExit(f"{error}; {missing}") from error
        raise


def checkpoint_path(text: str) -> Path:
    """The type of an argument that is the folder of a Hugging Face checkpoint. Raises argparse.ArgumentTypeError."""
    path = Path(text)
    if not (path / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a checkpoint: it has no config.json")
    return path


def model_path(text: str) -> Path:
    """The type of an argument that is a bundle or a .gguf. Raises argparse.ArgumentTypeError."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return path
