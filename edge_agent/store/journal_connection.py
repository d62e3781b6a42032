"""Connections to the journal's file: to have it, or to look at it while another process has it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_agent.store.journal_changes import wal_header

WAL_SUFFIX = "-wal"
LOCKED_MS = 1000
# Of one that another process has.
_MOST_COPIED_BYTES, _MOST_COPIES = 64 << 20, 5

JournalError = sqlite3.Error


class _Connection(sqlite3.Connection):
    def execute(self, *given: Any) -> sqlite3.Cursor:
        """Raises JournalError alone."""
        try:
            return super().execute(*given)
        except UnicodeError as error:  # of SQLite's message, which quotes what is damaged
            raise sqlite3.DatabaseError("its text is damaged") from error


def connect(path: Path | None) -> sqlite3.Connection:
    """As it is, for this process alone. path: None = in memory.

    Text that is damaged is seen as such (`is_text`), and does not end the reading of all else.
    """
    # Without a file in shared memory: a disk that does not give a page of it, or somebody who empties it, would end the
    # process by SIGBUS. Its pages are writes to the card, too.
    return _connect(":memory:" if path is None else f"{_uri(path)}?vfs=unix-excl")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Nothing is written. While another process has it, whatever is read is `is_in_use`."""
    return _connect(f"{_uri(path)}?mode=ro")


def is_in_use(error: JournalError) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY


def copy_in_use(path: Path, folder: Path) -> Path:
    """A copy of what another process has, as it was at one moment. Raises JournalError, OSError.

    The tables change only by what is in the file of changes, until that begins anew, with another header.
    """
    names = {one: folder / one.name for one in (path, beside(path, WAL_SUFFIX))}
    if sum(one.stat().st_size for one in names) > _MOST_COPIED_BYTES:
        raise sqlite3.OperationalError("it is in use, and too large to be copied")
    for _ in range(_MOST_COPIES):
        before = wal_header(beside(path, WAL_SUFFIX))
        for one, copy in names.items():
            shutil.copyfile(one, copy)
        if wal_header(beside(path, WAL_SUFFIX)) == before:
            return folder / path.name
    raise sqlite3.OperationalError("it is in use, and changes too quickly to be copied")


def _uri(path: Path) -> str:
    return f"file:{quote(os.fsencode(path))}"


def _connect(uri: str) -> sqlite3.Connection:
    # Any thread may be the one that collects a journal nobody has closed.
    connection = sqlite3.connect(
        uri,
        timeout=LOCKED_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
        factory=_Connection,
    )
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


def beside(path: Path, suffix: str) -> Path:
    """Another file of SQLite's, or of ours, for the same tables."""
    return path.with_name(path.name + suffix)
