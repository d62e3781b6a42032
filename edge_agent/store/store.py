"""Requests and replies, for as long as either may be asked for again; feedback has tables of its own (answers.py).

A row is a request, then its reply, until the broker has the reply and no repetition is due. A commit outlives this
process; after the next fsync (fsync.py) it outlives a power cut too. Once the disk fails, rows are kept in memory only.

The columns `payload` and `content_type` hold those of the request; in a row with a reply, those of the output that is
sent in its place. 0.1.0 left the request's content type in such a row.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.core.clock import Moment
from edge_agent.core.messages import JSON, Message, Reply
from edge_agent.store.database import STORE_ERRORS, TABLES, open_in_memory, open_or_set_aside
from edge_agent.store.fsync import FsyncThread, Synced

log = logging.getLogger(__name__)

# A row's numbers, times and names.
_ROW_OVERHEAD_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request that has no reply yet."""

    row: int
    task: str
    message: Message  # Its `received_at` is the first arrival, on this process's clock.


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReply:
    """A reply that a repeated request gets again."""

    row: int
    key: bytes  # The same as in requests/duplicates.
    reply: bytes
    nbytes: int  # About its size on disk.
    ended: Moment


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An input that ended the worker twice."""

    fingerprint: str
    task: str
    since: str | None  # As RFC 3339; None if the clock was unset.


class Store:
    """Belongs to the agent's thread. No method raises because of the disk.

    Only `start`, `stop` and, when a checkpoint is due, `maintain` wait for it.
    """

    def __init__(self, path: Path | None, deliver: Callable[[Synced], None]) -> None:
        """Without a path, all is in memory only. Another thread calls `deliver` when commits are on the disk."""
        self.fault: str | None = None  # Why rows are in memory that should be on disk.
        self.set_aside: str | None = None  # Why an earlier file was set aside.
        self.is_dirty = False  # Whether anything is committed that no fsync was requested for.
        self._path = path
        self._deliver = deliver
        self._connection = open_in_memory()
        self._fsync: FsyncThread | None = None  # None while rows are kept in memory only.
        self._uncommitted: list[tuple[str, tuple[object, ...]]] = []
        self._next_row = 1

    def start(self) -> list[tuple[int, Reply]]:
        """Opens the file. Gives rows and replies of earlier processes that the broker may not have.

        A file that cannot be opened is left alone, also later, because its requests are for the next process.
        """
        if self._path is None:
            return []
        try:
            connection, self.set_aside = open_or_set_aside(self._path)
            self._fsync = FsyncThread(self._path, self._deliver)
        except STORE_ERRORS as error:
            self._fail(str(error))
            return []
        self._connection.close()
        self._connection = connection
        self.is_dirty = True
        self._next_row = 1 + self.select("SELECT coalesce(max(number), 0) FROM requests")[0][0]
        rows = self.select(
            "SELECT number, reply_topic, reply, correlation, payload, iif(payload IS NULL, ?, content_type)"
            " FROM requests WHERE reply IS NOT NULL AND NOT is_delivered ORDER BY number",
            JSON,
        )
        return [
            (row, Reply(topic=topic, document=reply, correlation=correlation, output=output, content_type=content_type))
            for row, topic, reply, correlation, output, content_type in rows
        ]

    def unanswered(self, now: Moment) -> list[StoredRequest]:
        """Requests of earlier processes, in order."""
        rows = self.select(
            "SELECT number, task, topic, payload, packet_id, response_topic, correlation, content_type, expiry_s, boot,"
            " monotonic_s, wall_s FROM requests WHERE reply IS NULL ORDER BY number"
        )
        return [StoredRequest(row=row, task=task, message=_message(columns, now)) for row, task, *columns in rows]

    def repeatable(self) -> list[StoredReply]:
        """Answers of earlier processes, in the order of their ends."""
        rows = self.select(
            "SELECT number, key, reply, length(reply_topic) + length(reply) + coalesce(length(correlation), 0),"
            " boot, monotonic_s, wall_s FROM requests WHERE key IS NOT NULL ORDER BY wall_s, number"
        )
        return [
            StoredReply(row=row, key=key, reply=reply, nbytes=nbytes + _ROW_OVERHEAD_BYTES, ended=Moment(*ended))
            for row, key, reply, nbytes, *ended in rows
        ]

    def new_row(self) -> int:
        """A row for a request that is answered at once, and so is first written with its reply."""
        row, self._next_row = self._next_row, self._next_row + 1
        return row

    def accept(self, message: Message, task: str, arrived: Moment) -> int:
        row = self.new_row()
        self.write(
            "INSERT INTO requests (number, task, topic, payload, packet_id, response_topic, correlation, content_type,"
            " expiry_s, boot, monotonic_s, wall_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row, task, message.topic, message.payload, message.packet_id, message.response_topic, message.correlation,
            message.content_type, message.expiry_s, arrived.boot, arrived.monotonic_s, arrived.wall_s,
        )  # fmt: skip
        return row

    def drop(self, row: int) -> None:
        self.write("DELETE FROM requests WHERE number = ?", row)

    def store_reply(self, row: int, task: str, reply: Reply, key: bytes | None, ended: Moment) -> None:
        """Replaces the request by its reply. `key` is for `repeatable`; None if the reply is not repeated."""
        self.write(
            "INSERT INTO requests"
            " (number, task, correlation, boot, monotonic_s, wall_s, reply_topic, reply, payload, content_type, key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET topic = NULL,"
            " payload = excluded.payload, content_type = excluded.content_type,"
            " boot = excluded.boot, monotonic_s = excluded.monotonic_s, wall_s = excluded.wall_s,"
            " reply_topic = excluded.reply_topic, reply = excluded.reply, key = excluded.key",
            row, task, reply.correlation, ended.boot, ended.monotonic_s, ended.wall_s, reply.topic, reply.document,
            reply.output, reply.content_type, key,
        )  # fmt: skip

    def mark_delivered(self, row: int) -> None:
        """Notes that the broker has the reply."""
        self.write("UPDATE requests SET is_delivered = 1 WHERE number = ?", row)
        self._drop_done(row)

    def end_repetition(self, row: int) -> None:
        self.write("UPDATE requests SET key = NULL WHERE number = ?", row)
        self._drop_done(row)

    def _drop_done(self, row: int) -> None:
        self.write("DELETE FROM requests WHERE number = ? AND is_delivered AND key IS NULL", row)

    def recall(self, row: int) -> bytes | None:
        """The payload of a reply that is repeated; None if it is no longer there."""
        rows = self.select("SELECT reply FROM requests WHERE number = ? AND key IS NOT NULL", row)
        return rows[0][0] if rows else None

    def add_quarantined(self, entry: Quarantined) -> None:
        """Keeps the entry, so that later processes do not run it either."""
        self.write("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)", entry.fingerprint, entry.task, entry.since)

    def remove_quarantined(self, fingerprint: str) -> None:
        self.write("DELETE FROM quarantine WHERE fingerprint = ?", fingerprint)

    def quarantined(self) -> list[Quarantined]:
        """The oldest first."""
        return [Quarantined(*row) for row in self.select("SELECT * FROM quarantine ORDER BY rowid")]

    def commit(self) -> None:
        """Makes all that was written outlive this process."""
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
        """See FsyncThread.request; `Synced` reports it. Returns False if there is no disk to wait for."""
        self.is_dirty = False
        if self._fsync is None:
            return False
        self._fsync.request(generation, unacknowledged=unacknowledged)
        return True

    def on_synced(self, event: Synced) -> None:
        if event.fault is not None and self._fsync is not None:
            self._fail(event.fault)

    def maintain(self) -> None:
        """Completes checkpoints; must be called often."""
        if (fsync := self._fsync) is not None and fsync.needs_checkpoint:
            self.commit()
            self.select("PRAGMA wal_checkpoint(RESTART)")
            fsync.needs_checkpoint = False

    def stop(self, timeout_s: float) -> int | None:
        """Waits for the last fsync that was requested. Returns the generation on the disk; None if all is in memory."""
        if self._fsync is None:
            return None
        self._fsync.stop(timeout_s)
        return self._fsync.synced

    def close(self) -> None:
        self._connection.close()

    def has_rows(self, table: str) -> bool:
        return bool(self.select(f"SELECT 1 FROM {table} LIMIT 1"))  # noqa: S608 - a name of ours

    def load_task_state(self, basis: str) -> str | None:
        """What `save_task_state` kept."""
        rows = self.select("SELECT document FROM accuracy WHERE basis = ?", basis)
        return rows[0][0] if rows else None

    def save_task_state(self, basis: str, task: str, document: str) -> None:
        """Keeps what was found out about a task. `basis` identifies its definition and the model."""
        self.write("INSERT OR REPLACE INTO accuracy VALUES (?, ?, ?)", basis, task, document)

    def select(self, statement: str, *values: object) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except STORE_ERRORS as error:
            self._fail(str(error))
            return self._connection.execute(statement, values).fetchall()

    def write(self, statement: str, *values: object) -> None:
        """Changes rows, for good with the next `commit`."""
        self._uncommitted.append((statement, values))
        try:
            self._execute(statement, values)
        except STORE_ERRORS as error:
            self._fail(str(error))

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
        self._connection.execute(statement, values)

    def _fail(self, reason: str) -> None:
        """Goes on in memory, with what can still be read and what was not committed."""
        if self.fault is None:
            log.error("requests are kept in memory only, and end with this agent file=%s: %s", self._path, reason)
        self.fault = reason
        if self._fsync is None:
            return
        self._fsync.stop(0.0)
        self._fsync = None
        self.is_dirty = True  # What waited for an fsync now waits for no disk.
        failed, self._connection = self._connection, open_in_memory()
        with suppress(*STORE_ERRORS):
            if failed.in_transaction:
                failed.execute("ROLLBACK")
            for table in TABLES:
                for row in failed.execute(f"SELECT * FROM {table}"):  # noqa: S608 - a name of ours
                    places = ", ".join("?" * len(row))
                    self._connection.execute(f"INSERT INTO {table} VALUES ({places})", row)  # noqa: S608
        failed.close()
        for statement, values in self._uncommitted:
            self._execute(statement, values)


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
        received_at=Moment(*arrived).on_clock_of(now),
    )
