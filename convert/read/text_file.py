"""A user's text files: UTF-8, with or without a byte order mark, whole or line by line."""

from pathlib import Path

from ..errors import ConvertError, printable


def check_regular(path: Path) -> None:
    """Raises ConvertError for folders, devices and pipes, which may have no end."""
    if path.exists() and not path.is_file():
        raise ConvertError(f"{printable(str(path))}: not a regular file")


def read_text(path: Path) -> tuple[bytes, str]:
    """The content as bytes and as text. Raises ConvertError."""
    check_regular(path)
    try:
        data = path.read_bytes()
        return data, data.decode("utf-8-sig")
    except OSError as error:
        raise ConvertError(f"{printable(str(path))}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConvertError(f"{printable(str(path))}: not UTF-8 at byte {error.start}") from None


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank, counted from 1. splitlines would cut at characters that JSON may hold."""
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
