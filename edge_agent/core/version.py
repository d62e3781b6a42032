"""What `--version` says: the version, the commit of a release, and the llama.cpp that is installed beside it."""

import argparse
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from edge_agent import __version__

# The packages of a release hold it; a checkout does not.
_COMMIT_FILE = Path(__file__).parents[1] / "COMMIT"
# A version of llama-cpp-python and the commit of llama.cpp in it. Only its changelog has it: build_llama.sh in
# ansible/wheels compares them.
LLAMA_CPP = ("0.3.36", "0c1e57098")


class ShowVersion(argparse.Action):
    """`--version`: looks everything up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and what it was made from", **more)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(version_line(parser.prog))
        parser.exit()


def version_line(program: str) -> str:
    commit = _COMMIT_FILE.read_text("utf-8").strip() if _COMMIT_FILE.is_file() else "unknown"
    return f"{program} {__version__} (commit {commit}, {_llama()})"


def _llama() -> str:
    try:
        installed = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        return "no llama-cpp-python"
    version, commit = LLAMA_CPP
    return f"llama-cpp-python {installed}, llama.cpp {commit if installed == version else 'unknown'}"
