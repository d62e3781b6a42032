"""The only importer of sqlite3: requests and their answers, for as long as either may be asked for again.

A row is a request: first as it came, then with its reply, until the broker has that and no repetition is due any more.
What is committed outlives this process; that it outlives a power cut as well is up to journal_sync.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_agent.clock import Moment
from edge_agent.mqtt_link import Inbound, Publication
from edge_agent.publications import json_publication
from edge_agent.quarantine import Quarantined

log = logging.getLogger(__name__)

# Its number is that of the tables' form: an agent with another form uses another file, and leaves this one alone.
FILE = "requests-1.sqlite"
WAL_SUFFIX = "-wal"
# The file of changes keeps this size once it has grown to it: to write in its place costs no change of the folder's.
WAL_BYTES = 4 << 20

_TABLE = """
CREATE TABLE IF NOT EXISTS requests (
  number INTEGER PRIMARY KEY, task TEXT NOT NULL,
  topic TEXT, payload BLOB, response_topic TEXT, correlation BLOB, content_type TEXT, expiry_s INTEGER,
  packet_id INTEGER, boot TEXT NOT NULL, monotonic_s REAL NOT NULL, wall_s REAL NOT NULL,
  reply_topic TEXT, reply BLOB, key BLOB, is_delivered INTEGER NOT NULL DEFAULT 0
)"""
_QUARANTINE = "CREATE TABLE IF NOT EXISTS quarantine (fingerprint TEXT PRIMARY KEY, task TEXT NOT NULL, since TEXT)"

# How many columns each has.
_TABLES = {"requests": 16, "quarantine": 3}
# What is written into the columns that are read again; else text.
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("number", "expiry_s", "packet_id"), int),
    **dict.fromkeys(("payload", "correlation", "reply", "key"), bytes),
    **dict.fromkeys(("monotonic_s", "wall_s"), (int, float)),
}
_MAY_BE_NULL = ("response_topic", "correlation", "content_type", "expiry_s")
# What bytes become that are no UTF-8.
_LONE = re.compile("[\ud800-\udfff]")
# How long another process may lock the file; and how long one may read while changes are brought to the tables.
_LOCKED_MS, _READERS_MS = 1000, 20

JournalError = sqlite3.Error


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A request of an earlier process, as it came."""

    row: int
    task: str
    topic: str
    payload: bytes
    response_topic: str | None
    correlation: bytes | None
    content_type: str | None
    expiry_s: int | None
    packet_id: int
    arrived: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeatable:
    """An answer of an earlier process that a repeated request is given again. key: as duplicates.py has it."""

    row: int
    key: bytes
    reply: bytes
    ended: Moment


class Journal:
    """One file, or none. All methods but `close` raise JournalError."""

    def __init__(self, path: Path | None) -> None:
        """path: None = kept in memory, and gone with this process. Raises OSError too."""
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._connection, damaged = _open(path)
        weakref.finalize(self, self._connection.close)
        # Since the last commit.
        self._told: list[tuple[str, tuple[object, ...]]] = []
        if damaged is not None:
            with closing(_connection(damaged)) as other:
                self._copy(other)
            self.commit()
        self._next_row = self._first_free_row()

    def close(self) -> None:
        self._connection.close()

    def take_over(self, other: Journal) -> None:
        """All that can be read of the other one, committed or not, instead of what is here."""
        with suppress(JournalError):
            if other._connection.in_transaction:
                other._connection.execute("ROLLBACK")
        for table in _TABLES:
            self._execute(f"DELETE FROM {table}", ())  # noqa: S608 - a name of ours
        self._copy(other._connection)
        for statement, values in other._told:
            self._execute(statement, values)
        self._next_row = max(other._next_row, self._first_free_row())

    def _copy(self, other: sqlite3.Connection) -> None:
        """Row by row, not page by page: pages would bring their damage along."""
        for table, columns in _TABLES.items():
            statement = f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * columns)})"  # noqa: S608
            for values in _readable(other, f"SELECT * FROM {table}"):  # noqa: S608
                with suppress(sqlite3.IntegrityError):
                    self._execute(statement, values)

    def _first_free_row(self) -> int:
        (last,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM requests").fetchone()
        return int(last) + 1

    def free_row(self) -> int:
        """For a request that is answered at once: with its answer it is written for the first time."""
        row, self._next_row = self._next_row, self._next_row + 1
        return row

    def accept(self, inbound: Inbound, task: str, arrived: Moment) -> int:
        """A request that has come; gives its row."""
        row = self.free_row()
        self._execute(
            "INSERT INTO requests (number, task, topic, payload, response_topic, correlation, content_type, expiry_s,"
            " packet_id, boot, monotonic_s, wall_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, task, inbound.topic, inbound.payload, inbound.response_topic, inbound.correlation,
             inbound.content_type, inbound.expiry_s, inbound.packet_id,
             arrived.boot, arrived.monotonic_s, arrived.wall_s),
        )  # fmt: skip
        return row

    def drop(self, row: int) -> None:
        """It needs no answer of its own."""
        self._execute("DELETE FROM requests WHERE number = ?", (row,))

    def answer(self, row: int, task: str, reply: Publication, key: bytes | None, ended: Moment) -> None:
        """Its reply, from now on instead of the request. key: None = it is not given again."""
        self._execute(
            "INSERT INTO requests (number, task, correlation, boot, monotonic_s, wall_s, reply_topic, reply, key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET payload = NULL, topic = NULL,"
            " boot = excluded.boot, monotonic_s = excluded.monotonic_s, wall_s = excluded.wall_s,"
            " reply_topic = excluded.reply_topic, reply = excluded.reply, key = excluded.key",
            (
                row,
                task,
                reply.correlation,
                ended.boot,
                ended.monotonic_s,
                ended.wall_s,
                reply.topic,
                reply.payload,
                key,
            ),
        )

    def recall(self, row: int) -> bytes | None:
        """The reply that is kept to be given again; None: there is none."""
        found = self._connection.execute(
            "SELECT reply FROM requests WHERE number = ? AND key IS NOT NULL", (row,)
        ).fetchone()
        return None if found is None else found[0]

    def delivered(self, row: int) -> None:
        """The broker has the reply."""
        self._execute("UPDATE requests SET is_delivered = 1 WHERE number = ?", (row,))
        self._drop_done(row)

    def forget(self, row: int) -> None:
        """Its answer is not given again."""
        self._execute("UPDATE requests SET key = NULL WHERE number = ?", (row,))
        self._drop_done(row)

    def _drop_done(self, row: int) -> None:
        self._execute("DELETE FROM requests WHERE number = ? AND is_delivered AND key IS NULL", (row,))

    def hold(self, one: Quarantined) -> None:
        """It is not run again, by this process nor the next."""
        self._execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)", (one.fingerprint, one.task, one.since))

    def release(self, fingerprint: str) -> None:
        self._execute("DELETE FROM quarantine WHERE fingerprint = ?", (fingerprint,))

    def held(self) -> Iterator[Quarantined]:
        """The oldest first."""
        for row in _readable(self._connection, "SELECT fingerprint, task, since FROM quarantine ORDER BY rowid"):
            if all(_is_sound("text", value) for value in row):
                yield Quarantined(*row)

    def commit(self) -> bool:
        """What was told is kept whatever becomes of this process. False: nothing was told since the last time."""
        if not self._told:
            return False
        self._connection.execute("COMMIT")
        self._told.clear()
        return True

    def checkpoint(self) -> bool:
        """The next commit begins the file of changes anew. Waits for the disk.

        False: not now, somebody still reads what is in it.
        """
        self._connection.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
        try:
            (is_busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {_LOCKED_MS}")
        return not is_busy

    def unanswered(self) -> Iterator[Unanswered]:
        """In the order in which they came."""
        for (
            row,
            task,
            topic,
            payload,
            response_topic,
            correlation,
            content_type,
            expiry_s,
            packet_id,
            *at,
        ) in self._sound(
            "number, task, topic, payload, response_topic, correlation, content_type, expiry_s, packet_id, boot,"
            " monotonic_s, wall_s",
            "reply IS NULL",
        ):
            yield Unanswered(
                row=row, task=task, topic=topic, payload=payload, response_topic=response_topic,
                correlation=correlation, content_type=content_type, expiry_s=expiry_s, packet_id=packet_id,
                arrived=Moment(*at),
            )  # fmt: skip

    def undelivered(self) -> Iterator[tuple[int, Publication]]:
        """Rows with replies that the broker may not have, in order."""
        for row, topic, payload, correlation in self._sound(
            "number, reply_topic, reply, correlation", "reply IS NOT NULL AND NOT is_delivered"
        ):
            yield row, json_publication(topic, payload, correlation=correlation)

    def repeatable(self) -> Iterator[Repeatable]:
        """The oldest first."""
        for row, key, reply, *at in self._sound("number, key, reply, boot, monotonic_s, wall_s", "key IS NOT NULL"):
            yield Repeatable(row=row, key=key, reply=reply, ended=Moment(*at))

    def _sound(self, columns: str, which: str) -> Iterator[Any]:
        """Rows in order; those with values that were never written (SQLite knows no checksums) are dropped."""
        names = columns.split(", ")
        query = f"SELECT {columns} FROM requests WHERE {which} ORDER BY number"  # noqa: S608 - words of ours
        for row in list(_readable(self._connection, query)):
            if all(_is_sound(name, value) for name, value in zip(names, row, strict=True)):
                yield row
            else:
                log.error("a request on record is damaged, and dropped number=%r", row[0])
                self.drop(row[0])

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
        self._connection.execute(statement, values)
        # Not before: what failed is tried again by who asked for it, and must not be done twice.
        self._told.append((statement, values))


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFacts:
    """How much is in a journal, not what. fault: of the file; None = none was found."""

    requests: int
    unanswered: int
    undelivered: int
    repeatable: int
    payload_bytes: int
    reply_bytes: int
    quarantined: int
    fault: str | None


def journal_facts(path: Path, limit_s: float, *, is_checked: bool = True) -> JournalFacts:
    """Of a file that an agent may be using; nothing is written. Raises JournalError, also after limit_s seconds.

    is_checked: `fault` tells what SQLite's quick check finds.
    """
    give_up_at = time.monotonic() + limit_s
    uri = f"file:{quote(str(path))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > give_up_at, 10_000)
        told = connection.execute(
            "SELECT count(*), coalesce(sum(reply IS NULL), 0),"
            " coalesce(sum(reply IS NOT NULL AND NOT is_delivered), 0), count(key),"
            " coalesce(sum(length(payload)), 0), coalesce(sum(length(reply)), 0) FROM requests"
        ).fetchone()
        (quarantined,) = connection.execute("SELECT count(*) FROM quarantine").fetchone()
        (word,) = connection.execute("PRAGMA quick_check(1)").fetchone() if is_checked else ("ok",)
    names = ("requests", "unanswered", "undelivered", "repeatable", "payload_bytes", "reply_bytes")
    return JournalFacts(
        **dict(zip(names, told, strict=True)), quarantined=quarantined, fault=None if word == "ok" else str(word)
    )


def _open(path: Path | None) -> tuple[sqlite3.Connection, Path | None]:
    """With it, where a damaged file was put out of the way; None = there was none."""
    try:
        return _connect(path), None
    except sqlite3.DatabaseError as error:
        if path is None or isinstance(error, sqlite3.OperationalError):  # of the disk, not of what is in the file
            raise
        damaged = path.with_name(f"{path.name}.damaged")
        for suffix in (WAL_SUFFIX, ""):  # changes that are left there would be made to the new file
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(damaged.with_name(damaged.name + suffix))
        log.error("the record of requests is damaged, what can be read goes on kept_as=%s: %s", damaged, error)  # noqa: TRY400
        return _connect(path), damaged


def _readable(connection: sqlite3.Connection, query: str) -> Iterator[Any]:
    """Rows until the first that cannot be read."""
    try:
        yield from connection.execute(query)
    except sqlite3.OperationalError:  # of the disk, not of what is in the file
        raise
    except sqlite3.DatabaseError as error:
        log.error("part of the record of requests cannot be read: %s", error)  # noqa: TRY400


def _is_sound(name: str, value: object) -> bool:
    """Whether a column has what is written there."""
    if value is None:
        return name in _MAY_BE_NULL
    return isinstance(value, _TYPES.get(name, str)) and not (isinstance(value, str) and _LONE.search(value))


def _connection(path: Path | None) -> sqlite3.Connection:
    # Any thread may be the one that collects a journal nobody has closed.
    connection = sqlite3.connect(
        path or ":memory:", timeout=_LOCKED_MS / 1000, isolation_level=None, check_same_thread=False
    )
    # Text that is damaged is seen as such, and does not end the reading of all else.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


def _connect(path: Path | None) -> sqlite3.Connection:
    connection = _connection(path)
    try:
        # Each commit writes whole pages, and a row is smaller than one.
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("PRAGMA cache_size = -256")  # KiB
        # Readers and checkpoints do not hold up the writer; a commit waits for no disk, and a checkpoint of this
        # connection's does: journal_sync does both, as long as it keeps up.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        connection.execute(_TABLE)
        connection.execute(_QUARANTINE)
        if path is not None:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
    except BaseException:
        connection.close()
        raise
    return connection
