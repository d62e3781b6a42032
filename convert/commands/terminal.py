"""What all sub-commands share: exit codes, complaints on stderr, JSON on stdout, and the folder of the cache."""

import io
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PROGRAM = "edge-convert"
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_BAD_CHECKPOINT = 0, 1, 2, 65


def complain(message: object) -> None:
    """One line on stderr."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def warn(warnings: Iterable[str]) -> None:
    """One line on stderr for each."""
    for warning in warnings:
        complain(f"warning: {warning}")


def print_json(value: dict[str, Any]) -> None:
    """One object on stdout."""
    print(json.dumps(value, sort_keys=True))


def prepare_output() -> None:
    """What the terminal's encoding lacks is escaped, instead of ending the program; see also `end_output`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Unbuffered, argparse would not notice that its help does not go out.
        sys.stdout.reconfigure(errors="backslashreplace", write_through=False)


def end_output() -> bool:
    """Whether all that was printed went out; what does not is complained of, and dropped."""
    try:
        sys.stdout.flush()
    except OSError as error:
        complain(f"standard output: {error.strerror}")
        # Python would try once more at its end.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return False
    return True


def cache_folder() -> Path:
    """Where what is measured is kept if the caller names no folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-agent" / "convert"
