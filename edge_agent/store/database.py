"""Opens the store's database file, or sets it aside and begins another."""

import logging
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

log = logging.getLogger(__name__)

FILE = "requests-1.sqlite"
WAL_SUFFIX = "-wal"
# The WAL keeps this size once it has grown to it, because overwriting it changes no file size, which saves a write.
WAL_BYTES = 4 << 20
# Each commit writes whole pages, and a row is smaller than one.
_PAGE_BYTES = 1024
_CACHE_KIB = 256
_LOCKED_S = 1.0

# With STRICT and CHECK, `quick_check` finds values that damage has changed into ones that nobody expects.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
  number INTEGER PRIMARY KEY, task TEXT NOT NULL,
  topic TEXT, payload BLOB, response_topic TEXT, correlation BLOB, content_type TEXT, expiry_s INTEGER,
  packet_id INTEGER, boot TEXT NOT NULL, monotonic_s REAL NOT NULL, wall_s REAL NOT NULL,
  reply_topic TEXT, reply BLOB, key BLOB, is_delivered INTEGER NOT NULL DEFAULT 0,
  CHECK ((reply IS NULL) = (reply_topic IS NULL))
) STRICT;
CREATE TABLE IF NOT EXISTS quarantine (fingerprint TEXT PRIMARY KEY, task TEXT NOT NULL, since TEXT) STRICT;
CREATE TABLE IF NOT EXISTS answers (
  number INTEGER PRIMARY KEY, task TEXT NOT NULL, basis TEXT NOT NULL, id TEXT NOT NULL, reply_topic TEXT NOT NULL,
  wall_s REAL NOT NULL, scores TEXT NOT NULL, tokens INTEGER NOT NULL, is_audit INTEGER NOT NULL, input BLOB,
  output TEXT, is_marked INTEGER NOT NULL DEFAULT 0, label TEXT, rare_fields TEXT, machine TEXT,
  marked_by TEXT, is_refused INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS answers_by_id ON answers (task, id);
CREATE TABLE IF NOT EXISTS accuracy (basis TEXT PRIMARY KEY, task TEXT NOT NULL, document TEXT NOT NULL) STRICT;
"""

# In the order of their worth, because a fault ends a copy.
TABLES = ("requests", "quarantine", "accuracy", "answers")

# What goes wrong with a database or its disk. It is a UnicodeError where SQLite's message quotes damaged text.
STORE_ERRORS = (sqlite3.Error, OSError, UnicodeError)


class ForeignSchemaError(Exception):
    """The file is a sound database of another release."""


def open_in_memory() -> sqlite3.Connection:
    return _with_tables(_connect(":memory:"))


def open_or_set_aside(path: Path) -> tuple[sqlite3.Connection, str | None]:
    """The database, and why an earlier one was set aside; None if none was.

    Raises sqlite3.OperationalError and OSError for what is wrong with the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _open_sound(path), None
    except (ForeignSchemaError, sqlite3.DatabaseError, UnicodeError) as error:
        if isinstance(error, sqlite3.OperationalError):  # The disk is at fault, not the content of the file.
            raise
        is_foreign = isinstance(error, ForeignSchemaError)
        why = f"of another release: {error}" if is_foreign else f"damaged: {error}"
        aside = _set_aside(path, ".other-schema" if is_foreign else ".damaged")
        log.log(
            logging.WARNING if is_foreign else logging.ERROR,
            "requests of earlier processes are lost, their database is kept as %s, which is %s", aside, why,
        )  # fmt: skip
    return _open_sound(path), why


def connect(path: Path) -> sqlite3.Connection:
    """A connection; a process may have several to a file."""
    # With unix-excl, this process alone has the file, and SQLite needs no shared memory file. If a disk failed to read
    # a page of that, SIGBUS would end the process. Its pages are writes to the card, too.
    return _connect(f"file:{quote(os.fsencode(path))}?vfs=unix-excl")


def _open_sound(path: Path) -> sqlite3.Connection:
    """Raises ForeignSchemaError, sqlite3.DatabaseError, OSError."""
    if not path.exists():
        path.touch(mode=0o600)
    connection = connect(path)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # A commit waits for no disk and makes no checkpoint, because fsync.py does both.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        with closing(open_in_memory()) as expected:
            if _columns(_with_tables(connection)) != _columns(expected):
                raise ForeignSchemaError("its tables have other columns")
    except BaseException:
        connection.close()
        raise
    return connection


def _with_tables(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.executescript(_SCHEMA)
    known = connection.execute("SELECT name FROM pragma_table_info('answers')").fetchall()
    texts = (f"{name} TEXT" for name in ("rare_fields", "machine", "marked_by"))
    for column in (*texts, "is_refused INTEGER NOT NULL DEFAULT 0"):
        if (column.split()[0],) not in known:
            connection.execute(f"ALTER TABLE answers ADD COLUMN {column}")  # An earlier 0.2.0 lacks it.
    return connection


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    asked = "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c ORDER BY m.name, c.cid"
    return [(table, column) for table, column in connection.execute(asked) if table in TABLES]


def _set_aside(path: Path, suffix: str) -> Path:
    """Replaces what an earlier time set aside."""
    aside = _beside(path, suffix)
    # The WAL first, because SQLite would apply it to a new file of that name.
    with suppress(FileNotFoundError):
        _beside(path, WAL_SUFFIX).replace(_beside(aside, WAL_SUFFIX))
    path.replace(aside)
    return aside


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


class _Connection(sqlite3.Connection):
    def __del__(self) -> None:  # Python warns of a connection that is dropped without this
        with suppress(sqlite3.ProgrammingError):  # It was never opened.
            self.close()


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, timeout=_LOCKED_S, isolation_level=None, check_same_thread=False, uri=True, factory=_Connection
    )
    # Damaged text must end neither the reading of everything else nor, written as JSON, the agent.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection
