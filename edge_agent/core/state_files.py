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
    # O_NONBLOCK: a FIFO is an error instead of a wait.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
    with open(os.open(draft, flags, mode), "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in the folder are on the disk when this returns. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
