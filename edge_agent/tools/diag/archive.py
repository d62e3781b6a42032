"""The file that support gets: whole or not at all, for nobody else to read."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path


def packed(files: dict[str, bytes], folder: str, seconds: int) -> bytes:
    """A .tar.gz of these files in one folder. seconds: since 1970, of its making."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=seconds) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), seconds, 0o600
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    """Raises OSError; then nothing is left of it."""
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        # Not through a name that somebody else has put there: the folder may be /tmp.
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            if (user := os.environ.get("SUDO_UID", "")).isdecimal() and os.geteuid() == 0:
                os.fchown(file.fileno(), int(user), -1)  # who asked for it is to send it on
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except FileExistsError:
        raise
    except OSError:
        draft.unlink(missing_ok=True)
        raise
