"""Small files in `state_dir` that outlive the process. A crash or loss of power leaves the old or the new content."""

from __future__ import annotations

import os
from pathlib import Path


def read(path: Path) -> bytes | None:
    """None = there is no file, or a FIFO, whose reading would block. Raises OSError."""
    if path.is_fifo():
        return None
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def replace(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replaces the content, which is on the disk when this returns. Raises OSError. mode: of a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    _write(draft, data, os.O_TRUNC, mode)
    draft.replace(path)
    sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Appends to a file; on the disk when this returns, though a loss of power may tear the end. Raises OSError."""
    _write(path, data, os.O_APPEND, 0o600)


def _write(path: Path, data: bytes, how: int, mode: int) -> None:
    # O_NONBLOCK: a FIFO is an error instead of a wait.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | how
    with open(os.open(path, flags, mode), "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """The names in the folder are on the disk when this returns. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
