"""Reads one file of /sys or /proc: its text or number, or an exception that says what is wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# /proc/cpuinfo of a large machine is the longest file that is read.
_MAX_BYTES = 1 << 20
# The kernel allows 20 characters for the type of a zone. Names stand in every health document.
_MAX_NAME = 64
_MAX_REASON = 200
_OFFLINE = {errno.EAGAIN, errno.ENODATA, errno.EACCES, errno.EPERM}


class OfflineError(ValueError):
    """The sensor exists and reports by an impossible value that it is switched off."""


def read_bytes(path: Path) -> bytes:
    """Blocks as long as the driver behind the file does. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)


def read_text(path: Path) -> str:
    """Without blanks and NULs at both ends. Raises OSError."""
    return read_bytes(path).decode("utf-8", "replace").strip("\0 \t\r\n")


def read_name(path: Path) -> str:
    """The name of a device, which must have one. Raises OSError, ValueError."""
    name = read_text(path)[:_MAX_NAME]
    if not name:
        raise ValueError(f"{path.name}: empty")
    return name


def read_integer(path: Path) -> int:
    """Raises OSError, ValueError."""
    text = read_text(path)[:40]
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"not a number: {text!r}") from None


def read_within(path: Path, low: int, high: int) -> int:
    """A number from low to high. Raises OSError, ValueError."""
    value = read_integer(path)
    if not low <= value <= high:
        raise ValueError(f"absurd: {value}")
    return value


def integer_if_there(path: Path) -> int | None:
    """None where the file does not exist. Raises OSError, ValueError."""
    try:
        return read_integer(path)
    except FileNotFoundError:
        return None


def entries(folder: Path) -> list[str]:
    """The names in a folder in the order of their numbers; none where it does not exist."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a quarter of pathlib's time, for several folders each second
    except OSError:
        return []
    return sorted(names, key=lambda name: (len(name), name))


def reason(error: Exception) -> str:
    """What is wrong, in words for `sensor_errors`."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__)[:_MAX_REASON]


def is_offline(error: Exception) -> bool:
    """The sensor is switched off or closed to this process; it is not broken."""
    return isinstance(error, OfflineError) or (isinstance(error, OSError) and error.errno in _OFFLINE)
