"""Reads one file of /sys or /proc: its text or number, or an exception that says what is wrong."""

import os
from pathlib import Path

# /proc/cpuinfo of a large machine is the longest file that is read.
_MAX_BYTES = 1 << 20


def read_bytes(path: Path) -> bytes:
    """Blocks as long as the driver behind the file does. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)


def read_text(path: Path) -> str:
    """The text without blanks and NULs at either end. Raises OSError."""
    return read_bytes(path).decode("utf-8", "replace").strip("\0 \t\r\n")


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


def read_integer_if_exists(path: Path) -> int | None:
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
