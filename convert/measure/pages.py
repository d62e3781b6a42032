"""Pages of a file that llama.cpp has mapped, which this process may change for a while."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_FIXED = 0x10  # MAP_FIXED of Linux
_FAILED = ctypes.c_void_p(-1).value


@contextmanager
def writable_pages(path: Path, offset: int, address: int, nbytes: int) -> Iterator[None]:
    """The file's bytes from `offset` on, mapped at `address`, can be written; at the end they are the file's again.

    The caller makes sure that the file is mapped there. It never changes, and memory is taken only meanwhile.
    """
    # Mappings begin with whole pages.
    before = address % mmap.PAGESIZE
    span = address - before, nbytes + before, offset - before
    _map(path, *span, mmap.PROT_READ | mmap.PROT_WRITE)
    try:
        yield
    finally:
        _map(path, *span, mmap.PROT_READ)


def _map(path: Path, address: int, nbytes: int, offset: int, protection: int) -> None:
    """Maps a part of the file anew, at the same address: what was written there is gone."""
    with path.open("rb") as file:
        flags = mmap.MAP_PRIVATE | _FIXED
        if _LIBC.mmap(address, nbytes, protection, flags, file.fileno(), offset) == _FAILED:
            raise OSError(ctypes.get_errno(), f"mmap: {os.strerror(ctypes.get_errno())}", str(path))
