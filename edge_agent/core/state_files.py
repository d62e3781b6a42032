"""`state_dir`: one process at a time, and small files that outlive it.

A crash or loss of power leaves the old or the new content.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


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


class StateInUseError(Exception):
    """Another process has the folder."""


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """One agent per `state_dir`: a second one would answer, and forget, the requests of the first.

    Holds a lock on the folder until the body or the process ends; the worker does not inherit it.

    A folder that cannot be made or opened is used without a lock: nothing is kept there either. Raises StateInUseError.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        log.warning("%s cannot be locked, another agent could use it too: %s", state_dir, error.strerror)
        yield
        return
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"state_dir {state_dir} is in use by another process: each agent needs its own"
            raise StateInUseError(message) from None
        yield
    finally:
        os.close(folder)
