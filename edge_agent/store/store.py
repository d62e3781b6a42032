"""Requests and replies, for as long as either may be asked for again.

A row is a request, then its reply, until the broker has the reply and no repetition is due. A commit outlives this
process; after the next fsync (fsync.py) it outlives a power cut too. While the disk fails, rows are kept in memory.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_agent.core.clock import Moment
from edge_agent.core.inbound import Message
from edge_agent.core.publications import Publication, json_publication
from edge_agent.store.database import STORE_ERRORS, open_file, open_in_memory
from edge_agent.store.fsync import FsyncThread, Synced
from edge_agent.store.rows import Quarantined, StoredAnswer, StoredRequest, row_bytes

log = logging.getLogger(__name__)

RETRY_S = 30.0
# A request that two starts ended on, as they took it over, is not run again.
MAX_STARTS = 2
# Row numbers start here where those of the file are not known.
_UNKNOWN_ROWS_BITS = 48


class Store:
    """Belongs to the agent's thread. No method raises for the disk, nor waits for it, but `start` and `stop`."""

    def __init__(self, path: Path | None, deliver: Callable[[Synced], None]) -> None:
        """path: None = in memory only. deliver: called by another thread when commits are on the disk."""
        # Why rows are kept in memory although they should be on disk, or None.
        self.fault: str | None = None
        # Why an earlier file was set aside, or None.
        self.set_aside: str | None = None
        # Whether anything is committed that no fsync was requested for.
        self.is_dirty = False
        self._path = path
        self._deliver = deliver
        self._connection = open_in_memory()
        self._fsync: FsyncThread | None = None
        self._uncommitted: list[tuple[int | None, str, tuple[object, ...]]] = []
        self._next_row = 1 if path is None else secrets.randbits(_UNKNOWN_ROWS_BITS)
        self._is_opened_before = False
        # Rows of earlier processes that this one has not taken over.
        self._earlier: set[int] = set()
        # Rows that changed since the disk failed.
        self._changed: set[int] = set()
        self._retry_at = 0.0

    def start(self) -> list[tuple[int, Publication]]:
        """Opens the file. Gives rows and replies of earlier processes that the broker may not have."""
        return [] if self._path is None else self._open(self._path)

    def _open(self, path: Path) -> list[tuple[int, Publication]]:
        """As `start`, the first time that it succeeds; then nothing. Sets `fault`."""
        undelivered: list[tuple[int, Publication]] = []
        try:
            connection, set_aside = open_file(path)
            try:
                earlier = {row for (row,) in connection.execute("SELECT number FROM requests")}
                if not self._is_opened_before:
                    undelivered = _undelivered(connection)
                self._bring_changes(connection, on_disk=earlier)
                fsync = FsyncThread(path, self._deliver)
            except BaseException:
                connection.close()
                raise
        except STORE_ERRORS as error:
            self._fail(str(error))
            return []
        if self.fault is not None:
            log.warning("requests are kept on disk again file=%s", path)
        if not self._is_opened_before:
            self._earlier = earlier
        if self.fault is None:  # no row was numbered yet
            self._next_row = 1
        self._next_row = max(self._next_row, 1 + max(earlier, default=0))
        self._connection.close()
        self._connection, self._fsync = connection, fsync
        self._changed.clear()
        self.fault, self.set_aside = None, set_aside or self.set_aside
        self.is_dirty = self._is_opened_before = True
        return undelivered

    def _bring_changes(self, connection: sqlite3.Connection, on_disk: set[int]) -> None:
        """Writes rows that changed in memory, and rows that the file does not have."""
        connection.execute("BEGIN")
        connection.executemany("DELETE FROM requests WHERE number = ?", [(row,) for row in self._changed])
        for values in self._connection.execute("SELECT * FROM requests"):
            if values[0] in self._changed or values[0] not in on_disk:
                _insert(connection, "requests", values)
        for values in self._connection.execute("SELECT * FROM quarantine"):
            _insert(connection, "quarantine", values)
        connection.execute("COMMIT")

    @property
    def has_earlier(self) -> bool:
        """Whether rows of earlier processes can be taken over now."""
        return bool(self._earlier) and self.fault is None

    def end_takeover(self) -> None:
        """Rows of earlier processes that were not taken over by now are left alone."""
        if self.fault is None:
            self._earlier.clear()

    def unanswered(self, now: Moment) -> Iterator[StoredRequest]:
        """Requests of earlier processes, in order. Each is taken over when the next one is asked for."""
        for row in self._earlier_rows("reply IS NULL", "number"):
            self._earlier.discard(row)
            for task, starts, *columns in self._select(
                "SELECT task, starts, topic, payload, packet_id, response_topic, correlation, content_type, expiry_s,"
                " boot, monotonic_s, wall_s FROM requests WHERE number = ?",
                row,
            ):
                is_given_up = starts >= MAX_STARTS
                if is_given_up:  # its refusal writes the row again, unless that ends this process too
                    self.drop(row)
                else:
                    self._write(row, "UPDATE requests SET starts = starts + 1 WHERE number = ?", row)
                self.commit()
                message = _message(columns, now)
                yield StoredRequest(row=row, task=task, message=message, is_given_up=is_given_up)
                self._write(row, "UPDATE requests SET starts = 0 WHERE number = ?", row)

    def repeatable(self) -> Iterator[StoredAnswer]:
        """Answers of earlier processes, in the order of their ends. One by one: together they are megabytes."""
        for row in self._earlier_rows("key IS NOT NULL", "wall_s, number"):
            self._earlier.discard(row)
            for key, reply, correlation, topic, *at in self._select(
                "SELECT key, reply, correlation, reply_topic, boot, monotonic_s, wall_s FROM requests WHERE number = ?",
                row,
            ):
                nbytes = row_bytes(topic, reply, correlation)
                yield StoredAnswer(row=row, key=key, reply=reply, nbytes=nbytes, ended=Moment(*at))

    def _earlier_rows(self, where: str, order: str) -> list[int]:
        rows = self._select(f"SELECT number FROM requests WHERE {where} ORDER BY {order}")  # noqa: S608 - our words
        return [row for (row,) in rows if row in self._earlier]

    def free_row(self) -> int:
        """For a request that is answered at once: it is first written with its reply."""
        row, self._next_row = self._next_row, self._next_row + 1
        return row

    def accept(self, message: Message, task: str, arrived: Moment) -> int:
        """Writes a request and gives its row."""
        row = self.free_row()
        self._write(
            row,
            "INSERT INTO requests (number, task, topic, payload, packet_id, response_topic, correlation, content_type,"
            " expiry_s, boot, monotonic_s, wall_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row, task, message.topic, message.payload, message.packet_id, message.response_topic, message.correlation,
            message.content_type, message.expiry_s, arrived.boot, arrived.monotonic_s, arrived.wall_s,
        )  # fmt: skip
        return row

    def drop(self, row: int) -> None:
        """The request needs no reply."""
        self._write(row, "DELETE FROM requests WHERE number = ?", row)

    def answer(self, row: int, task: str, reply: Publication, key: bytes | None, ended: Moment) -> None:
        """Replaces the request by its reply. key: for `repeatable`; None = it is not repeated."""
        self._write(
            row,
            "INSERT INTO requests (number, task, correlation, boot, monotonic_s, wall_s, reply_topic, reply, key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET payload = NULL, topic = NULL,"
            " boot = excluded.boot, monotonic_s = excluded.monotonic_s, wall_s = excluded.wall_s,"
            " reply_topic = excluded.reply_topic, reply = excluded.reply, key = excluded.key",
            row, task, reply.correlation, ended.boot, ended.monotonic_s, ended.wall_s, reply.topic, reply.payload, key,
        )  # fmt: skip

    def delivered(self, row: int) -> None:
        """The broker has the reply."""
        self._write(row, "UPDATE requests SET is_delivered = 1 WHERE number = ?", row)
        self._drop_done(row)

    def forget(self, row: int) -> None:
        """The reply is not repeated any more."""
        self._write(row, "UPDATE requests SET key = NULL WHERE number = ?", row)
        self._drop_done(row)

    def _drop_done(self, row: int) -> None:
        self._write(row, "DELETE FROM requests WHERE number = ? AND is_delivered AND key IS NULL", row)

    def redirect(self, row: int, topic: str) -> None:
        """The reply goes to another topic."""
        self._write(row, "UPDATE requests SET reply_topic = ? WHERE number = ?", topic, row)

    def recall(self, row: int) -> bytes | None:
        """The payload of a reply that is repeated; None = it is not there any more."""
        for (reply,) in self._select("SELECT reply FROM requests WHERE number = ? AND key IS NOT NULL", row):
            payload: bytes = reply
            return payload
        return None

    def reply(self, row: int) -> tuple[str, Publication] | None:
        """Task and reply; None = they are not there any more."""
        for task, *columns in self._select(
            "SELECT task, reply_topic, reply, correlation FROM requests WHERE reply IS NOT NULL AND number = ?", row
        ):
            return task, _reply(columns)
        return None

    def hold(self, one: Quarantined) -> None:
        """Later processes do not run it either."""
        statement = "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)"
        self._write(None, statement, one.fingerprint, one.task, one.since)

    def release(self, fingerprint: str) -> None:
        self._write(None, "DELETE FROM quarantine WHERE fingerprint = ?", fingerprint)

    def held(self) -> list[Quarantined]:
        """The oldest first."""
        return [Quarantined(*row) for row in self._select("SELECT * FROM quarantine ORDER BY rowid")]

    def commit(self) -> None:
        """All that was written outlives this process."""
        if not self._uncommitted:
            return
        try:
            self._connection.execute("COMMIT")
        except STORE_ERRORS as error:
            self._fail(str(error))
            self._connection.execute("COMMIT")
        self._uncommitted.clear()
        self.is_dirty = True

    def request_fsync(self, generation: int, *, unacknowledged: int) -> bool:
        """See FsyncThread.request; `Synced` reports it. False: there is no disk to wait for."""
        self.is_dirty = False
        if self._fsync is None:
            return False
        self._fsync.request(generation, unacknowledged=unacknowledged)
        return True

    def on_synced(self, event: Synced) -> None:
        if event.fault is not None and self._fsync is not None:
            self._fail(event.fault)

    def maintain(self, now: float) -> list[tuple[int, Publication]]:
        """To be called often. As `start`, where the file could not be opened until now."""
        if (fsync := self._fsync) is not None and fsync.needs_checkpoint:
            self.commit()
            self._select("PRAGMA wal_checkpoint(RESTART)")
            fsync.needs_checkpoint = False
        if self.fault is None or self._path is None or now < self._retry_at:
            return []
        self.commit()
        return self._open(self._path)

    def stop(self, timeout_s: float) -> int | None:
        """After the last fsync that was requested. Gives the generation on the disk; None = it is all in memory."""
        if self._fsync is None:
            return None
        self._fsync.stop(timeout_s)
        return self._fsync.synced

    def close(self) -> None:
        self._connection.close()

    def _select(self, statement: str, *values: object) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except STORE_ERRORS as error:
            self._fail(str(error))
            return self._connection.execute(statement, values).fetchall()

    def _write(self, row: int | None, statement: str, *values: object) -> None:
        self._uncommitted.append((row, statement, values))
        try:
            self._execute(row, statement, values)
        except STORE_ERRORS as error:
            self._fail(str(error))

    def _execute(self, row: int | None, statement: str, values: tuple[object, ...]) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
        self._connection.execute(statement, values)
        if self._path is not None and self._fsync is None and row is not None:
            self._changed.add(row)

    def _fail(self, reason: str) -> None:
        """Goes on in memory, with what can still be read and what was not committed."""
        if self.fault is None:
            log.error("requests are kept in memory only, and end with this agent file=%s: %s", self._path, reason)
        self.fault = reason
        self._retry_at = time.monotonic() + RETRY_S
        if self._fsync is None:
            return
        self._fsync.stop(0.0)
        self._fsync = None
        self.is_dirty = True  # what waited for an fsync waits for no disk now
        failed, self._connection = self._connection, open_in_memory()
        with suppress(*STORE_ERRORS):
            if failed.in_transaction:
                failed.execute("ROLLBACK")
            for table in ("quarantine", "requests"):
                for values in failed.execute(f"SELECT * FROM {table}"):  # noqa: S608
                    _insert(self._connection, table, values)
        failed.close()
        for row, statement, values in self._uncommitted:
            self._execute(row, statement, values)


def _insert(connection: sqlite3.Connection, table: str, values: tuple[object, ...]) -> None:
    connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608


def _message(columns: list[Any], now: Moment) -> Message:
    topic, payload, packet_id, response_topic, correlation, content_type, expiry_s, *arrived = columns
    return Message(
        topic=topic,
        payload=payload,
        qos=1,
        packet_id=packet_id,
        response_topic=response_topic,
        correlation=correlation,
        content_type=content_type,
        expiry_s=expiry_s,
        received_at=Moment(*arrived).placed(now),
    )


def _undelivered(connection: sqlite3.Connection) -> list[tuple[int, Publication]]:
    rows = connection.execute(
        "SELECT number, reply_topic, reply, correlation FROM requests WHERE reply IS NOT NULL AND NOT is_delivered"
        " ORDER BY number"
    )
    return [(row, _reply(columns)) for row, *columns in rows]


def _reply(columns: list[Any]) -> Publication:
    topic, payload, correlation = columns
    return json_publication(topic, payload, correlation=correlation)
