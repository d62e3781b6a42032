"""Parsers under libFuzzer, which keeps the inputs that reach new code (atheris, x86-64 Linux; installed below build/).

Exit code 1 if a parser raised, hung or took too much memory; the input that did it is below build/fuzz/found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).with_name("corpus")
WORK = ROOT / "build" / "fuzz"
ATHERIS = WORK / "atheris"
_NAMES = (
    *("gguf", "safetensors", "checkpoint", "manifest", "messages", "topic_names", "schema", "pattern"),
    "configuration",
)
_TIMEOUT_S, _MEMORY_MB, _MAX_BYTES = 10, 1024, 4096
# For each target; the tests replay them in a second or two.
_MAX_KEPT, _MAX_KEPT_BYTES = 27, 4096
_OURS = (str(ROOT / "edge_agent"), str(ROOT / "convert"))
_MAX_SHOWN = 4000
Line = tuple[str, int]


def _run(name: str, seconds: int) -> int:
    """0 if nothing was found."""
    working, found = WORK / "corpus" / name, WORK / "found"
    for folder in (working, found, CORPUS / name):
        folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "rigs.fuzz.coverage", "--child", name, str(working), str(CORPUS / name)]
    words += [f"-max_total_time={seconds}", f"-timeout={_TIMEOUT_S}", f"-rss_limit_mb={_MEMORY_MB}"]
    words += [f"-max_len={_MAX_BYTES}", f"-artifact_prefix={found}/{name}-", "-print_final_stats=1", "-verbosity=0"]
    environment = {**os.environ, "PYTHONPATH": str(ATHERIS)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    runs = next((line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line), "?")
    print(f"{name}: {runs} runs, {len(list(working.iterdir()))} inputs that reach something", flush=True)
    if done.returncode:
        shown = [
            line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(("INFO:", "WARNING:"))
        ]
        print("\n".join(shown)[-_MAX_SHOWN:], flush=True)
    return done.returncode


def _install_atheris() -> None:
    if not ATHERIS.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, "--target", str(ATHERIS), "atheris==3.1.0"], check=False).returncode:
            raise SystemExit("this rig needs atheris 3.1.0 from PyPI")


def _child(name: str, options: list[str]) -> None:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: PLC0415 - installed below build/

    with atheris.instrument_imports(include=["edge_agent", "convert"]):
        from rigs.fuzz.targets import TARGETS  # noqa: PLC0415 - modules that are imported here are instrumented
    atheris.Setup([name, *options], TARGETS[name])
    atheris.Fuzz()


def _keep(name: str) -> None:
    """Keeps the smallest inputs that together reach every line."""
    from rigs.fuzz.targets import TARGETS  # noqa: PLC0415 - see `_child`

    known = {file: _lines(TARGETS[name], file.read_bytes()) for file in sorted((CORPUS / name).iterdir())}
    reached = set[Line]().union(*known.values())
    files = sorted((WORK / "corpus" / name).iterdir(), key=lambda file: (file.stat().st_size, file.name))
    for file in files:
        if len(known) >= _MAX_KEPT or file.stat().st_size > _MAX_KEPT_BYTES:
            break
        lines = _lines(TARGETS[name], file.read_bytes())
        if not lines <= reached:
            reached |= lines
            known[file] = lines
            (CORPUS / name / file.name[:16]).write_bytes(file.read_bytes())
    print(f"{name}: {len(known)} files, {len(reached)} lines")


def _lines(target: Any, data: bytes) -> set[Line]:
    found: set[Line] = set()

    def trace(frame: FrameType, event: str, _value: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        if event == "line":
            found.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m rigs.fuzz.coverage", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(_NAMES)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--keep", action="store_true", help="add inputs that reach new lines to corpus/")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given, options = parser.parse_known_args()
    if given.child:
        name, *folders = given.targets
        _child(name, [*folders, *options])
        return 0
    if unknown := {*given.targets, *options} - {*_NAMES}:
        parser.error(f"no targets: {', '.join(sorted(unknown))}")
    _install_atheris()
    codes = []
    # Two at once.
    room = threading.Semaphore(2)

    def run(name: str) -> None:
        with room:
            codes.append(_run(name, given.seconds))

    threads = [threading.Thread(target=run, args=(name,)) for name in given.targets or _NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if given.keep:
        for name in given.targets or _NAMES:
            _keep(name)
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
