"""Files in the cache folder: written whole or not at all, and read as missing if they are damaged."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..progress import Progress


@contextmanager
def locked_folder(folder: Path, progress: Progress) -> Iterator[None]:
    """One conversion at a time uses the folder: another one may be measuring just what this one needs. OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        progress("waiting for another conversion that uses the same folder", 0.0)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A draft that becomes the file if nothing fails: whole or not at all, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_cached(path: Path) -> Any:
    """The JSON value in a file; None if there is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_cached(path: Path, value: Any) -> None:
    """The counterpart of `read_cached`."""
    with replaced_file(path) as draft:
        draft.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
