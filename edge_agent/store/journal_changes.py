"""How far SQLite's file of changes was written: SQLite reads it up to the first damaged frame, and says nothing.

SQLite's file format, section 4: a header of 32 bytes, then frames of 24 bytes and a page each.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

# Checksums are of little-endian numbers, and of big-endian ones.
_MAGIC = {b"\x37\x7f\x06\x82": "<", b"\x37\x7f\x06\x83": ">"}
_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
# With pages as we make them.
_FRAME_BYTES = _FRAME_HEADER_BYTES + 1024
_PAGE_BYTES_AT, _SALT_AT, _CHECKSUM_AT = 8, 16, 24
_FRAME_COMMIT, _FRAME_SALT = slice(4, 8), slice(8, 16)


def begins_as_written(header: bytes) -> bool:
    """Whether a file that begins so is SQLite's, or empty."""
    return not header or header[:4] in _MAGIC


def wal_header(path: Path) -> bytes:
    """It is another one each time that the file begins anew. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)


def written_frames(path: Path) -> int:
    """Up to the last commit but one that is in the file, whether it can be read or not. Raises OSError.

    A commit counts once something of the next one is there: a process that is killed may leave the last one half
    written. After a loss of power frames may be missing before one that is there: they come to the disk in any order.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        nbytes = os.fstat(file.fileno()).st_size
        if not header.strip(b"\0"):
            return 0
        if not _is_sound(header):
            return max(1, nbytes // _FRAME_BYTES)
        page_bytes = int.from_bytes(header[_PAGE_BYTES_AT : _PAGE_BYTES_AT + 4], "big")
        salt = header[_SALT_AT:_CHECKSUM_AT]
        number = written = last = 0
        while len(frame := file.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
            number += 1
            file.seek(page_bytes, os.SEEK_CUR)
            if frame[_FRAME_SALT] == salt:
                written = last
                last = number if frame[_FRAME_COMMIT] != bytes(4) else last
        return written


def _is_sound(header: bytes) -> bool:
    order = _MAGIC.get(header[:4])
    if order is None or len(header) < _HEADER_BYTES:
        return False
    first = second = 0
    for one, other in struct.iter_unpack(f"{order}II", header[:_CHECKSUM_AT]):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return struct.pack(">II", first, second) == header[_CHECKSUM_AT:]
