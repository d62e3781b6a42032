"""Source package of the installed llama-cpp-python, with the llama.cpp that it vendors."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGE = "llama-cpp-python"
_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def fetch_sources(work: Path) -> Path:
    """The unpacked source package of the version that is installed here, below `work`. It is fetched with pip once.

    Raises SystemExit if pip cannot fetch it.
    """
    version = importlib.metadata.version(PACKAGE)
    root = work / f"llama_cpp_python-{version}"
    if not (root / "vendor" / "llama.cpp").is_dir():
        archive = work / f"llama_cpp_python-{version}.tar.gz"
        if not archive.is_file():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]
            run_program([*command, "--dest", str(work), f"{PACKAGE}=={version}"])
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    return root


def build_llama_cpp(work: Path, programs: Sequence[str]) -> Path:
    """The folder with these programs of llama.cpp, built once below `work`, which takes minutes. Raises SystemExit."""
    source = fetch_sources(work) / "vendor" / "llama.cpp"
    build = work / "llama.cpp"
    if not all((build / "bin" / program).is_file() for program in programs):
        cmake = shutil.which("cmake") or str(make_environment(work / "cmake", ("cmake",)).with_name("cmake"))
        run_program([cmake, "-S", str(source), "-B", str(build), *_FLAGS])
        jobs = str(len(os.sched_getaffinity(0)))
        run_program([cmake, "--build", str(build), "--parallel", jobs, "--target", *programs])
    return build / "bin"


def make_environment(venv: Path, requirements: Sequence[str]) -> Path:
    """The Python of an environment with these packages, made once. Raises SystemExit if that fails."""
    python = venv / "bin" / "python"
    done = venv / "complete"
    if not done.is_file():
        run_program([sys.executable, "-m", "venv", "--clear", str(venv)])
        run_program([str(python), "-m", "pip", "install", "--quiet", *requirements])
        done.touch()
    return python


def run_program(command: Sequence[str], environment: Mapping[str, str] | None = None, *, ends_with: int = 0) -> str:
    """What the program wrote to standard output. Raises SystemExit with its last lines for any other exit code."""
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != ends_with:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
        raise SystemExit(f"{' '.join(command)}\nended with {result.returncode}:\n{tail}")
    return result.stdout
