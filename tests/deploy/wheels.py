"""What a board without a package index installs the agent from: wheels for x86-64."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.deploy.roots import REPOSITORY

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64")


def wheelhouse(folder: Path, pythons: set[str]) -> Path:
    """All wheels of the agent, of its dependencies for these Pythons (such as 3.11), and of what builds it from source.

    llama.cpp is compiled if pip has no wheel of it kept. Raises CalledProcessError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dependencies = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    native = next(name for name in dependencies if name.startswith("llama-cpp-python"))
    _pip("wheel", "--no-deps", f"--wheel-dir={folder}", native)
    platforms = [f"--platform={platform}" for platform in _PLATFORMS]
    for python in sorted(pythons):
        download = ["download", "--only-binary=:all:", f"--python-version={python}", *platforms]
        _pip(*download, f"--dest={folder}", f"--find-links={folder}", "setuptools>=77", *dependencies)
    _pip("wheel", "--no-deps", f"--wheel-dir={folder}", str(REPOSITORY))
    return folder


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)
