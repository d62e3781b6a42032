"""Reads small files from outside, which must be regular, of bounded size and UTF-8. JSON is strict."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..agent import NotJsonError, RowsError, TooLongError, parse_json, read_bounded
from ..errors import CheckpointError, ConvertError, escaped

# Three times the largest tokenizer.json of Qwen, which has 600 000 values.
MAX_JSON_BYTES, _MAX_VALUES = 32_000_000, 4_000_000


def read_small_file(path: Path) -> bytes | None:
    """The file's content; None if there is no file. Raises CheckpointError, which names the file."""
    if not path.exists():
        return None
    if not path.is_file():
        raise CheckpointError(f"{escaped(path.name)}: not a regular file")
    try:
        return read_bounded(path, MAX_JSON_BYTES)
    except TooLongError as error:
        raise CheckpointError(f"{escaped(path.name)}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{escaped(path.name)}: cannot be read: {error.strerror}") from None


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`, with or without a byte order mark. Raises CheckpointError, which names `where`."""
    try:
        value = parse_json(data.decode("utf-8-sig"), _MAX_VALUES)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: not UTF-8 at byte {error.start}") from None
    except NotJsonError as error:
        raise CheckpointError(f"{where}: not JSON: {escaped(str(error))}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: holds a JSON {type(value).__name__} instead of an object")
    return value


def check_regular(path: Path) -> None:
    """Raises ConvertError for folders, devices and pipes, which may have no end."""
    if path.exists() and not path.is_file():
        raise ConvertError(f"{escaped(str(path))}: not a regular file")


def read_user_file(path: Path) -> tuple[bytes, str]:
    """A user's text, as bytes and as text without a byte order mark. Raises ConvertError."""
    check_regular(path)
    try:
        data = path.read_bytes()
        return data, data.decode("utf-8-sig")
    except OSError as error:
        raise ConvertError(f"{escaped(str(path))}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConvertError(f"{escaped(str(path))}: not UTF-8 at byte {error.start}") from None


@contextmanager
def user_rows() -> Iterator[None]:
    """The body reads a user's rows. Their faults are raised as ConvertError, each on a line."""
    try:
        yield
    except RowsError as error:
        raise ConvertError("\n".join(escaped(fault, limit=1000) for fault in error.faults)) from None
