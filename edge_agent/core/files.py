"""Files that are read within bounds, and written whole or not at all, also when the power fails."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class TooLongError(ValueError):
    """The file is longer than allowed; the message says how long it may be, without the file's name."""


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Raises TooLongError, OSError."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise TooLongError(f"should be at most {max_bytes} bytes")
    return data


def read_if_exists(path: Path) -> bytes | None:
    """The content; None where there is no file, or a FIFO, whose reading would block. Raises OSError."""
    if path.is_fifo():
        return None
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def sha256_of(path: Path) -> str:
    """The file's hash, in hex. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_writer(path: Path, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A draft to write, which takes the place of `path` once the body ends; if it raises, nothing changes.

    Its content is on the disk by then. Raises OSError.
    """
    # Named after the process: two that replace one file at the same time do not write into one draft.
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)  # of a process that was killed
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that only its owner can read; it is at `path` whole, once the body ends, or not at all. Raises OSError."""
    with atomic_writer(path, mode=0o600) as draft:
        if (user := os.environ.get("SUDO_UID", "")).isdecimal() and os.geteuid() == 0:
            os.fchown(draft.fileno(), int(user), -1)  # the caller of sudo sends it on
        yield draft


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replaces the content, and makes the folder; both are on the disk when this returns. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path, mode=mode) as file:
        file.write(data)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in the folder are on the disk when this returns. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
