"""The folder of what was measured: files that may be missing or damaged, and one program at a time that uses it."""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .progress import Progress


@contextmanager
def sole_use(folder: Path, progress: Progress) -> Iterator[None]:
    """While it lasts, others that want the folder wait: what they look for may be what is being measured. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another conversion, which uses the same folder", 0.0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def read_json(path: Path) -> Any:
    """None if nothing is there, or not what `write_json` wrote: it is made anew."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["value"] if kept["sha256"] == _digest(kept["value"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A draft to write, which becomes the file if nothing fails: whole or not at all, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    with new_file(path) as draft:
        kept = {"sha256": _digest(value), "value": value}
        draft.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def figure(value: Any) -> float:
    """A number that was measured. Raises ValueError for what cannot be one, TypeError, OverflowError."""
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"no figure: {value!r:.50}")
    return number
