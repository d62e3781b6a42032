"""Requests and their answers, for as long as either may be asked for again.

A row is a request: first as it came, then with its reply, until the broker has that and no repetition is due any more.
What is committed outlives this process; that it outlives a power cut as well is up to journal_sync.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
import weakref
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edge_agent.core.clock import Moment
from edge_agent.core.inbound import Message
from edge_agent.core.publications import Publication, json_publication
from edge_agent.store.journal_connection import LOCKED_MS, JournalError, connect_to_read, copy_in_use, is_in_use
from edge_agent.store.journal_file import copied, is_text, open_file
from edge_agent.store.rows import Quarantined, StoredAnswer, StoredRequest, row_bytes

log = logging.getLogger(__name__)

# What is written into the columns that are read again; else text.
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("number", "expiry_s", "packet_id"), int),
    **dict.fromkeys(("payload", "correlation", "reply", "key"), bytes),
    **dict.fromkeys(("monotonic_s", "wall_s"), (int, float)),
}
_MAY_BE_NULL = ("response_topic", "correlation", "content_type", "expiry_s", "since")
# Of the numbers that a row may have.
_ROW_BITS = 61
# How long another process may read while changes are brought to the tables.
_READERS_MS = 20


class Journal:
    """One file, or none. All methods but `close` raise JournalError."""

    def __init__(self, path: Path | None, *, is_patient: bool = True) -> None:
        """path: None = kept in memory, and gone with this process. As of `open_file`, also what is raised."""
        self.path = path
        self._connection = open_file(path, is_patient=is_patient)
        weakref.finalize(self, self._connection.close)
        # Since the last commit.
        self._told: list[tuple[str, tuple[object, ...]]] = []
        # What is in memory may come to a file that cannot be opened yet: its rows are others.
        self._next_row = self._first_free_row() if path is not None else secrets.randbits(_ROW_BITS) + 1

    def close(self) -> None:
        self._connection.close()

    def take_over(self, other: Journal, spared: AbstractSet[int] = frozenset()) -> None:
        """All that can be read of the other one, committed or not, instead of what is here; rows keep their numbers.

        spared: rows that stay where the other one does not have them. What is quarantined stays, too.
        """
        for row in self.rows() - spared:
            self.drop(row)
        with suppress(JournalError):
            if other._connection.in_transaction:
                other._connection.execute("ROLLBACK")
        try:
            for statement, values in copied(other._connection):
                with suppress(sqlite3.IntegrityError):
                    self._execute(statement, values)
        finally:  # also where its file cannot be read any more
            for statement, values in other._told:
                self._execute(statement, values)
            self._next_row = other._next_row if self.path is None else max(other._next_row, self._first_free_row())

    def rows(self) -> frozenset[int]:
        """Of all requests and answers."""
        return frozenset(row for (row,) in self._connection.execute("SELECT number FROM requests"))

    def _first_free_row(self) -> int:
        # Among all numbers there may be one that is damaged, and has no next one.
        query = f"SELECT coalesce(max(number), 0) FROM requests WHERE number < {2 << _ROW_BITS}"  # noqa: S608
        (last,) = self._connection.execute(query).fetchone()
        return int(last) + 1

    def free_row(self) -> int:
        """For a request that is answered at once: with its answer it is written for the first time."""
        row, self._next_row = self._next_row, self._next_row + 1
        return row

    def accept(self, message: Message, task: str, arrived: Moment) -> int:
        """A request that has come; gives its row."""
        row = self.free_row()
        self._execute(
            "INSERT INTO requests (number, task, topic, payload, response_topic, correlation, content_type, expiry_s,"
            " packet_id, boot, monotonic_s, wall_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, task, message.topic, message.payload, message.response_topic, message.correlation,
             message.content_type, message.expiry_s, message.packet_id,
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

    def redirect(self, row: int, topic: str) -> None:
        """Its reply goes there."""
        self._execute("UPDATE requests SET reply_topic = ? WHERE number = ?", (topic, row))

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
            if all(map(_is_sound, ("fingerprint", "task", "since"), row)):
                yield Quarantined(*row)

    @property
    def mark(self) -> int:
        """A number that the next process finds; 0 at first."""
        (mark,) = self._connection.execute("PRAGMA user_version").fetchone()
        return int(mark)

    def set_mark(self, mark: int) -> None:
        """mark: of 31 bits."""
        self._execute(f"PRAGMA user_version = {mark:d}", ())

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
            self._connection.execute(f"PRAGMA busy_timeout = {LOCKED_MS}")
        return not is_busy

    def unanswered(self, now: Moment) -> Iterator[StoredRequest]:
        """In the order in which they came."""
        columns = (
            "number, task, topic, payload, response_topic, correlation, content_type, expiry_s, packet_id,"
            " boot, monotonic_s, wall_s"
        )
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
        ) in self._sound(columns, "reply IS NULL"):
            message = Message(
                topic=topic, payload=payload, qos=1, packet_id=packet_id, response_topic=response_topic,
                correlation=correlation, content_type=content_type, expiry_s=expiry_s,
                received_at=Moment(*at).placed(now),
            )  # fmt: skip
            yield StoredRequest(row=row, task=task, message=message)

    def undelivered(self) -> Iterator[tuple[int, Publication]]:
        """Rows with replies that the broker may not have, in order."""
        for row, topic, payload, correlation in self._sound(
            "number, reply_topic, reply, correlation", "reply IS NOT NULL AND NOT is_delivered"
        ):
            yield row, json_publication(topic, payload, correlation=correlation)

    def reply(self, row: int) -> tuple[str, Publication] | None:
        """A reply and its task."""
        for task, topic, payload, correlation in self._sound(
            "task, reply_topic, reply, correlation", f"reply IS NOT NULL AND number = {int(row)}"
        ):
            return task, json_publication(topic, payload, correlation=correlation)
        return None

    def repeatable(self) -> Iterator[StoredAnswer]:
        """In the order of their ends."""
        columns = "number, key, reply, correlation, reply_topic, boot, monotonic_s, wall_s"
        for row, key, reply, correlation, topic, *at in self._sound(columns, "key IS NOT NULL", "wall_s, number"):
            nbytes = row_bytes(topic, reply, correlation)
            yield StoredAnswer(row=row, key=key, reply=reply, nbytes=nbytes, ended=Moment(*at))

    def _sound(self, columns: str, which: str, order: str = "number") -> Iterator[Any]:
        """Rows in order, one by one; those with values that were never written are dropped."""
        names = columns.split(", ")
        numbers = f"SELECT number FROM requests WHERE {which} ORDER BY {order}"  # noqa: S608 - words of ours
        for (number,) in self._connection.execute(numbers).fetchall():
            query = f"SELECT {columns} FROM requests WHERE number = {number:d}"  # noqa: S608
            row = self._connection.execute(query).fetchone()
            if row is None:  # it is told, or gone meanwhile
                continue
            if all(map(_is_sound, names, row)):
                yield row
            else:
                log.error("a request on record is damaged, and dropped number=%r", number)
                self.drop(number)

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
    """Of a file that an agent may be using; nothing is written. Raises JournalError, also after limit_s; OSError.

    is_checked: `fault` tells what SQLite's quick check finds.
    """
    give_up_at = time.monotonic() + limit_s
    try:
        return _facts(path, give_up_at, is_checked=is_checked)
    except JournalError as error:
        if not is_in_use(error):
            raise
    with TemporaryDirectory() as folder:
        return _facts(copy_in_use(path, Path(folder)), give_up_at, is_checked=is_checked)


def _facts(path: Path, give_up_at: float, *, is_checked: bool) -> JournalFacts:
    with closing(connect_to_read(path)) as connection:
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


def _is_sound(name: str, value: object) -> bool:
    """Whether a column has what is written there."""
    if value is None:
        return name in _MAY_BE_NULL
    return isinstance(value, _TYPES.get(name, str)) and not (isinstance(value, str) and not is_text(value))
