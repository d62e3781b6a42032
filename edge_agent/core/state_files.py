"""Small files in `state_dir` that a process leaves to the next one: whole at any moment, whatever is cut off."""

from __future__ import annotations

import os
from pathlib import Path


def read(path: Path) -> bytes | None:
    """None: there is none, or a FIFO, which would be waited for. Raises OSError."""
    if path.is_fifo():
        return None
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def replace(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """On the disk when it returns; before that, a loss of power leaves the old one. Raises OSError.

    mode: of a new file, less the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    _write(draft, data, os.O_TRUNC, mode)
    draft.replace(path)
    sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """To a file that is there; on the disk when it returns, after a loss of power perhaps not whole. Raises OSError."""
    _write(path, data, os.O_APPEND, 0o600)


def _write(path: Path, data: bytes, how: int, mode: int) -> None:
    # A FIFO is an error at once.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | how
    with open(os.open(path, flags, mode), "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Its names are on the disk when it returns. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
