"""One read of one file of /sys or /proc: its text or number, or an exception that says what is wrong."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CHUNK = 16384
# /proc/cpuinfo of a large machine is the longest that is read.
_MOST_BYTES = 1 << 20
# The kernel has 20 for a zone's type; what is longer is no name, and would be told in every health document.
_LONGEST_NAME = 64
_LONGEST_REASON = 200
_INTEGER = re.compile(rb"\s*[+-]?[0-9]{1,18}\s*")
_OFFLINE = {errno.EAGAIN, errno.ENODATA, errno.EACCES, errno.EPERM}


class OfflineError(ValueError):
    """The sensor is there, and says by an impossible value that it is switched off."""


def read_bytes(path: Path) -> bytes:
    """All of a file, which is opened anew: a file of /sys is made when it is read. Raises OSError.

    Blocks as long as the driver behind it does.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(file, _CHUNK)
        while len(data) < _MOST_BYTES and (more := os.read(file, _CHUNK)):
            data += more
    finally:
        os.close(file)
    return data


def read_text(path: Path) -> str:
    """Without the blanks and NULs around it. Raises OSError."""
    return read_bytes(path).decode("utf-8", "replace").strip("\0 \t\r\n")


def read_name(path: Path) -> str:
    """Of a device, which must have one. Raises OSError, ValueError."""
    name = read_text(path)
    if not name:
        raise ValueError(f"{path.name}: empty")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"{path.name}: no name: {name[:40]!r}…")
    return name


def read_integer(path: Path) -> int:
    """Raises OSError, ValueError."""
    data = read_bytes(path)
    if not _INTEGER.fullmatch(data):
        raise ValueError(f"not a number: {data[:40].decode('utf-8', 'replace')!r}" if data.strip() else "empty")
    return int(data)


def read_within(path: Path, low: int, high: int) -> int:
    """A number from low to high. Raises OSError, ValueError."""
    value = read_integer(path)
    if not low <= value <= high:
        raise ValueError(f"absurd: {value}")
    return value


def if_there(read: Callable[[Path], T], path: Path) -> T | None:
    """None where the file does not exist; other faults are raised."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def entries(folder: Path) -> list[str]:
    """Names in a folder, in the order of their numbers; none where it does not exist."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - once a second, several folders: pathlib takes four times as long
    except OSError:
        return []
    return sorted(names, key=lambda name: (len(name), name))


def reason(error: Exception) -> str:
    """For `sensor_errors`."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__)[:_LONGEST_REASON]


def is_offline(error: Exception) -> bool:
    """The sensor is switched off or closed to this process: nothing is broken."""
    return isinstance(error, OfflineError) or (isinstance(error, OSError) and error.errno in _OFFLINE)
