"""The journal's file: opened whole; or, where it is damaged, made anew of all that can be read of it.

SQLite knows no checksums: pages are checked when the file is opened, values when they are read.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from edge_agent.core.config import Config
from edge_agent.core.errors import shown_path
from edge_agent.store.journal_changes import written_frames
from edge_agent.store.journal_connection import WAL_SUFFIX, beside, connect

log = logging.getLogger(__name__)

# Its number is that of the tables' form: an agent with another form uses another file, and leaves this one alone.
FILE = "requests-1.sqlite"
# The file of changes keeps this size once it has grown to it: to write in its place costs no change of the folder's.
WAL_BYTES = 4 << 20
# Each commit writes whole pages, and a row is smaller than one.
_PAGE_BYTES = 1024
# Of SQLite's file format, section 1.3: what tells its version, and what differs from file to file of ours.
_HEADER_BYTES = 100
_WRITE_VERSION_AT, _SCHEMA_FORMAT = 18, slice(44, 48)
_NEWEST_VERSION, _NEWEST_FORMAT = 2, 4
_COUNT_OF_PAGES = slice(28, 32)
_COUNTS = (slice(24, 40), slice(92, 100))

_REQUESTS = """
CREATE TABLE IF NOT EXISTS requests (
  number INTEGER PRIMARY KEY, task TEXT NOT NULL,
  topic TEXT, payload BLOB, response_topic TEXT, correlation BLOB, content_type TEXT, expiry_s INTEGER,
  packet_id INTEGER, boot TEXT NOT NULL, monotonic_s REAL NOT NULL, wall_s REAL NOT NULL,
  reply_topic TEXT, reply BLOB, key BLOB, is_delivered INTEGER NOT NULL DEFAULT 0
)"""
_QUARANTINE = "CREATE TABLE IF NOT EXISTS quarantine (fingerprint TEXT PRIMARY KEY, task TEXT NOT NULL, since TEXT)"
# How many columns each has. The short one first: after a page that the disk does not give, no more is read.
_COLUMNS = {"quarantine": 3, "requests": 16}
# What could not be read the first times stays, and what could not be read the last time.
_DAMAGED = (".damaged", ".damaged-2", ".damaged-3")
# What bytes become that are no UTF-8.
_LONE = re.compile("[\ud800-\udfff]")


def leftover_hint(config: Config) -> str | None:
    """The hint that `queue.journal` leaves an earlier database unused in `state_dir`, or None."""
    file = config.state_dir / FILE
    if config.queue.journal == "disk" or not file.exists():
        return None
    return f"queue.journal: {shown_path(file)} is not used; it keeps its requests and answers until it is removed"


def open_file(path: Path | None, *, is_patient: bool = True) -> sqlite3.Connection:
    """With its tables. path: None = in memory. Raises JournalError for what is wrong with the disk, OSError.

    is_patient: what the disk does not give is wrong with it, and not with the file.
    """
    if path is None:
        return _opened(None)
    path.parent.mkdir(parents=True, exist_ok=True)
    for one in (path, beside(path, WAL_SUFFIX)):
        if one.is_fifo():  # it would be waited for
            raise sqlite3.OperationalError(f"{one} is no file")
    _end_salvage(path)
    try:
        _check_versions(path)
        written = _written_frames(path)
        connection = _opened(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # of the disk, not of what is in the file
            raise
        if is_patient:
            _read_through(path)
        _salvage(path)
        kept_as = _end_salvage(path)
        log.error("the record of requests was damaged, what can be read goes on kept_as=%s: %s", kept_as, error)  # noqa: TRY400
        return _opened(path)
    if written:
        _tell_unread(connection, written)
    return connection


def _written_frames(path: Path) -> int:
    try:
        return written_frames(beside(path, WAL_SUFFIX))
    except OSError:  # SQLite is the one to complain
        return 0


def _tell_unread(connection: sqlite3.Connection, written: int) -> None:
    """written: frames that were in the file of changes before it was opened."""
    with suppress(sqlite3.OperationalError):  # of the disk: whoever writes next meets it, too
        (is_busy, found, _) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if found < written and not is_busy:
            log.error(
                "the last changes of the record cannot be read, requests and answers of then are lost: %d of %d,"
                " as after a loss of power", written - max(0, found), written,
            )  # fmt: skip


def _check_versions(path: Path) -> None:
    """Raises sqlite3.DatabaseError. SQLite would open what is newer than itself, and never write it."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) == _HEADER_BYTES and (
            header[_WRITE_VERSION_AT] > _NEWEST_VERSION
            or int.from_bytes(header[_SCHEMA_FORMAT], "big") > _NEWEST_FORMAT
        ):
            raise sqlite3.DatabaseError("its header is damaged")


def _read_through(path: Path) -> None:
    """Raises OSError. To SQLite a page that the disk does not give is malformed."""
    for one in (path, beside(path, WAL_SUFFIX)):
        with suppress(FileNotFoundError), one.open("rb") as file:
            while file.read(1 << 20):
                pass


def copied(connection: sqlite3.Connection) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Statements that make its rows anew: row by row, not page by page, for pages would bring their damage along."""
    for table, columns in _COLUMNS.items():
        statement = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * columns)})"  # noqa: S608 - names of ours
        for values in _from_both_ends(connection, table):
            if all(is_text(value) for value in values if isinstance(value, str)):
                yield statement, values
            else:
                log.error("a row of %s is damaged, and dropped: %r", table, values[0])


def _from_both_ends(connection: sqlite3.Connection, table: str) -> Iterator[Any]:
    """All rows; or those before the first that cannot be read, and those after the last."""
    for order in ("ASC", "DESC"):
        try:
            yield from connection.execute(f"SELECT * FROM {table} ORDER BY rowid {order}")  # noqa: S608
        except sqlite3.OperationalError:  # of the disk, not of what is in the file
            raise
        except (sqlite3.DatabaseError, UnicodeError) as error:
            log.error("not all %s on record can be read: %s", table, error)  # noqa: TRY400
        else:
            return


def is_text(value: str) -> bool:
    """Whether it was written as it is read."""
    return not _LONE.search(value)


def _keep_from_others(path: Path) -> None:
    """What is asked may be nobody else's business. SQLite's other files get the mode of the first, once it is there."""
    if not path.exists():
        path.touch(mode=0o600)
    for suffix in ("", WAL_SUFFIX, "-shm"):  # an older agent's, say
        with suppress(OSError):
            beside(path, suffix).chmod(0o600)


def _opened(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        _keep_from_others(path)
    connection = connect(path)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA cache_size = -256")  # KiB
        # Readers and checkpoints do not hold up the writer; a commit waits for no disk, and a checkpoint of this
        # connection's does: journal_sync does both, as long as it keeps up.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        was_empty = not _schema(connection)
        connection.execute(_REQUESTS)
        connection.execute(_QUARANTINE)
        if path is not None and not was_empty:
            _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError for what is not as it was made."""
    with closing(_opened(None)) as sound:
        if _schema(connection) != _schema(sound):
            raise sqlite3.DatabaseError("its tables are not as they were made")
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _schema(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()


def _salvage(path: Path) -> None:
    """What can be read of a damaged file is on the disk beside it, whole. Raises as `open_file`."""
    draft = beside(path, ".draft")
    try:
        _opened(draft).close()
        _mend_first_page(path, draft.read_bytes()[:_PAGE_BYTES])
        with closing(_opened(draft)) as new, closing(connect(path)) as old:
            new.execute("BEGIN")
            for statement, values in copied(old):
                with suppress(sqlite3.IntegrityError):
                    new.execute(statement, values)
            new.execute("COMMIT")
            # On a full disk that at the end fails in silence, and what is in the file of changes would go with it.
            (is_busy, _, _) = new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise sqlite3.OperationalError("the draft of a new record is read by somebody")
        file = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except BaseException:
        _forget(draft)
        raise
    draft.replace(beside(path, ".whole"))


def _mend_first_page(path: Path, sound: bytes) -> None:
    """It tells where the tables are. In every file it is the same, but for counts."""
    nbytes = path.stat().st_size
    if not nbytes or nbytes % _PAGE_BYTES:
        return
    with path.open("r+b") as file:
        found, mended = file.read(_PAGE_BYTES), bytearray(sound)
        for counts in _COUNTS:
            mended[counts] = found[counts]
        mended[_COUNT_OF_PAGES] = (nbytes // _PAGE_BYTES).to_bytes(4, "big")
        if mended != found:
            file.seek(0)
            file.write(mended)


def _end_salvage(path: Path) -> Path | None:
    """What is whole takes the damaged file's name, also after a cut. Gives that one's place; None: it was sound."""
    _forget(beside(path, ".draft"))
    whole = beside(path, ".whole")
    if not whole.exists():
        return None
    places = [beside(path, suffix) for suffix in _DAMAGED]
    kept_as = next((place for place in places if not place.exists()), places[-1])
    if path.exists() and kept_as.exists():
        beside(kept_as, WAL_SUFFIX).unlink(missing_ok=True)
        kept_as.unlink()
    # First: wherever this is cut off, the same place is found free again. And changes would be made to the new file.
    with suppress(FileNotFoundError):
        beside(path, WAL_SUFFIX).replace(beside(kept_as, WAL_SUFFIX))
    beside(path, "-shm").unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        path.replace(kept_as)
    whole.replace(path)
    return kept_as


def _forget(draft: Path) -> None:
    for suffix in ("", WAL_SUFFIX, "-shm"):
        beside(draft, suffix).unlink(missing_ok=True)
