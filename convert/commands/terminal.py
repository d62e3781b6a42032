"""What all sub-commands share: exit codes, complaints on stderr, JSON on stdout, and the folder of the cache."""

import json
import os
import sys
from pathlib import Path
from typing import Any

PROGRAM = "edge-convert"
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_BAD_CHECKPOINT = 0, 1, 2, 65


def complain(message: object) -> None:
    """One line on stderr."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    """One object on stdout."""
    print(json.dumps(value, sort_keys=True))


def cache_folder() -> Path:
    """Where what is measured is kept if the caller names no folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-agent" / "convert"
