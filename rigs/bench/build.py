"""llama.cpp's own programs, built from the very sources that the installed binding was built from."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.llama_sources import build_llama_cpp, fetch_sources, make_environment

PROGRAMS = ("llama-server", "llama-bench", "llama-batched-bench")
# What examples/server/server.py names as its dependencies; the binding itself is the one that the agent runs with.
_EXAMPLE_PACKAGES = ("fastapi", "jinja2", "numpy", "openai", "pydantic", "safetensors", "uvicorn", "websockets")


@dataclass(frozen=True)
class ExampleServer:
    """The example server of llama-cpp-python, and a Python that has what it needs."""

    python: Path
    script: Path


def build_programs(work: Path) -> Path:
    """The folder with PROGRAMS. Raises SystemExit."""
    return check_programs(build_llama_cpp(work, PROGRAMS))


def check_programs(folder: Path) -> Path:
    """The folder, if PROGRAMS are in it. Raises SystemExit."""
    if missing := [program for program in PROGRAMS if not (folder / program).is_file()]:
        raise SystemExit(f"{folder} has no {' and no '.join(missing)}")
    return folder.absolute()


def example_server(work: Path) -> ExampleServer:
    """Installed once below `work`. Raises SystemExit."""
    venv = work / "example-server"
    python = make_environment(venv, _EXAMPLE_PACKAGES)
    (site_packages,) = venv.glob("lib/python*/site-packages")
    # Its own packages come first; of ours it finds llama_cpp and what that needs.
    (site_packages / "binding.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return ExampleServer(python.absolute(), (fetch_sources(work) / "examples" / "server" / "server.py").absolute())
