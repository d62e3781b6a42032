"""The only importer of sqlite3: requests and their answers, for as long as either may be asked for again.

A row is a request: first as it came, then with its reply, until the broker has that and no repetition is due any more.
What is committed outlives this process; that it outlives a power cut as well is up to journal_sync.
"""

from __future__ import annotations

import logging
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
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
        self._connection = _open(path)
        weakref.finalize(self, self._connection.close)
        # Since the last commit.
        self._told: list[tuple[str, tuple[object, ...]]] = []
        self._next_row = self._first_free_row()

    def close(self) -> None:
        self._connection.close()

    def take_over(self, other: Journal) -> None:
        """All that is in the other one, committed or not, instead of what is here."""
        other._roll_back()
        other._connection.backup(self._connection)
        for statement, values in other._told:
            self._execute(statement, values)
        self._next_row = max(other._next_row, self._first_free_row())

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _first_free_row(self) -> int:
        (last,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM requests").fetchone()
        return int(last) + 1

    def accept(self, inbound: Inbound, task: str, arrived: Moment) -> int:
        """A request that has come; gives its row."""
        row, self._next_row = self._next_row, self._next_row + 1
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
        for row in self._connection.execute("SELECT fingerprint, task, since FROM quarantine ORDER BY rowid"):
            yield Quarantined(*row)

    def commit(self) -> bool:
        """What was told is kept whatever becomes of this process. False: nothing was told since the last time."""
        if not self._told:
            return False
        self._connection.execute("COMMIT")
        self._told.clear()
        return True

    def checkpoint(self) -> None:
        """The next commit begins the file of changes anew. Waits for the disk; another one's checkpoint goes on."""
        self._connection.execute("PRAGMA wal_checkpoint(RESTART)")

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
        ) in self._connection.execute(
            "SELECT number, task, topic, payload, response_topic, correlation, content_type, expiry_s, packet_id,"
            " boot, monotonic_s, wall_s FROM requests WHERE reply IS NULL ORDER BY number"
        ):
            yield Unanswered(
                row=row, task=task, topic=topic, payload=payload, response_topic=response_topic,
                correlation=correlation, content_type=content_type, expiry_s=expiry_s, packet_id=packet_id,
                arrived=Moment(*at),
            )  # fmt: skip

    def undelivered(self) -> Iterator[tuple[int, Publication]]:
        """Rows with replies that the broker may not have, in order."""
        for row, topic, payload, correlation in self._connection.execute(
            "SELECT number, reply_topic, reply, correlation FROM requests"
            " WHERE reply IS NOT NULL AND NOT is_delivered ORDER BY number"
        ):
            yield (
                row,
                json_publication(topic, payload, correlation=correlation),
            )

    def repeatable(self) -> Iterator[Repeatable]:
        """The oldest first."""
        for row, key, reply, *at in self._connection.execute(
            "SELECT number, key, reply, boot, monotonic_s, wall_s FROM requests WHERE key IS NOT NULL ORDER BY number"
        ):
            yield Repeatable(row=row, key=key, reply=reply, ended=Moment(*at))

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        if not self._told:
            self._connection.execute("BEGIN")
        self._told.append((statement, values))
        self._connection.execute(statement, values)


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


def _open(path: Path | None) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if path is None or isinstance(error, sqlite3.OperationalError):  # of the disk, not of what is in the file
            raise
        damaged = path.with_name(f"{path.name}.damaged")
        path.replace(damaged)
        log.error("the record of requests cannot be read, and is begun anew kept_as=%s: %s", damaged, error)  # noqa: TRY400
        return _connect(path)


def _connect(path: Path | None) -> sqlite3.Connection:
    # Any thread may be the one that collects a journal nobody has closed.
    connection = sqlite3.connect(path or ":memory:", timeout=1.0, isolation_level=None, check_same_thread=False)
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
    except BaseException:
        connection.close()
        raise
    return connection
