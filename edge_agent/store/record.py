"""What is asked and answered, on record: on the disk; in memory while that fails, until it is back.

Belongs to the agent's thread alone. A disk that fails is not worth an unanswered request: nobody hears a JournalError.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from edge_agent.core.clock import Moment
from edge_agent.core.inbound import Message
from edge_agent.core.publications import Publication
from edge_agent.store.journal import Journal
from edge_agent.store.journal_connection import JournalError, is_in_use
from edge_agent.store.journal_sync import JournalSync, Synced
from edge_agent.store.rows import Quarantined, StoredAnswer, StoredRequest

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# A disk that was full or away may be back.
TRY_AGAIN_S = 60.0
# Who reads the journal's file (a backup, a curious one) may be done: until then its changes pile up.
READERS_GONE_S = 10.0
# Marks of the journal's: what a process takes over, for the next one, should that end it. First all at once, then row
# by row: who is killed at each start for another reason is hardly killed at the same row twice.
_NOTHING, _ALL, _FIRST_ROW = 0, 1, 2
_ROWS = 1 << 29


class Record:
    """A row for each request, until the broker has its reply and that is not given again any more."""

    def __init__(self, path: Path | None, deliver: Callable[[Synced], None]) -> None:
        """path: of the journal; None = in memory only. deliver: hears of what is on the disk, from another thread."""
        # Why nothing is kept on disk although it should be; None = as it should be.
        self.fault: str | None = None
        # Whether anything was committed that is not on its way to the disk yet.
        self.is_dirty = False
        self._path = path
        self._deliver = deliver
        self._journal = Journal(None)
        self._sync: JournalSync | None = None
        self._try_at = self._checkpoint_at = 0.0
        # Whether it is known what earlier processes left, and what this one has not taken over of it.
        self._is_read = False
        self._earlier: set[int] = set()
        # Rows of this one: not answered yet, not with the broker yet, and with answers that are given again.
        self._owed: set[int] = set()
        self._undelivered: set[int] = set()
        self._repeated: set[int] = set()
        # From quarantine, while nothing could be written.
        self._released: set[str] = set()

    def start(self) -> list[tuple[int, Publication]]:
        """Gives replies of an earlier process that the broker may not have."""
        return [] if self._path is None else self._go_to_disk(self._path)

    def _go_to_disk(self, path: Path) -> list[tuple[int, Publication]]:
        """As `start`, the first time that it succeeds."""
        was_away = self.fault is not None
        undelivered: list[tuple[int, Publication]] = []
        try:
            journal = Journal(path, is_patient=not was_away)
            try:
                earlier = set(self._earlier if self._is_read else journal.rows())
                if not self._is_read:
                    undelivered = list(journal.undelivered())
                if was_away:
                    self._put_back(journal, earlier)
                sync = JournalSync(path, self._deliver)
            except BaseException:
                journal.close()
                raise
        except (JournalError, OSError) as error:
            self._fail(str(error))
            if isinstance(error, JournalError) and is_in_use(error):
                self._try_at = time.monotonic() + READERS_GONE_S
            return []
        if was_away:
            log.warning("requests are kept on disk again journal=%s", path)
        self._journal.close()
        self._journal, self._sync = journal, sync
        self.fault, self.is_dirty = None, was_away
        self._is_read, self._earlier = True, earlier
        self._undelivered.update(row for row, _ in undelivered)
        self._released.clear()
        return undelivered

    def _put_back(self, journal: Journal, earlier: set[int]) -> None:
        """What is known to be in it stays: it may not have been readable as the disk failed, and be so now."""
        missing = (self._owed | self._undelivered | self._repeated) - self._journal.rows()
        journal.take_over(self._journal, spared=missing | earlier)
        # Nothing was written of what became of these.
        for row in missing - self._owed - self._undelivered:
            journal.delivered(row)
        for row in missing - self._owed - self._repeated:
            journal.forget(row)
        for fingerprint in self._released:
            journal.release(fingerprint)
        if not earlier and journal.mark != _NOTHING:  # what it was for was taken over meanwhile
            journal.set_mark(_NOTHING)
        journal.commit()

    @property
    def has_earlier(self) -> bool:
        """Whether earlier processes left anything that can be taken over now."""
        return bool(self._earlier) and self.fault is None

    def taken_over(self) -> None:
        """All that they left, and that can be read."""
        if self.fault is None:
            self._earlier.clear()
        if self._try(lambda journal: journal.mark) != _NOTHING:
            self._set_mark(_NOTHING)

    def unanswered(self, now: Moment) -> Iterator[StoredRequest]:
        """Requests of earlier processes: each is taken over when the next one is asked for."""
        found = [left for left in self._try(lambda journal: list(journal.unanswered(now))) if left.row in self._earlier]
        mark = self._try(lambda journal: journal.mark)
        if found and mark == _NOTHING:
            self._set_mark(_ALL)
        for left in found:
            self._earlier.discard(left.row)
            self._owed.add(left.row)
            once = _FIRST_ROW + 2 * (left.row % _ROWS)
            is_deadly = mark == once + 1
            if is_deadly:  # should its answer end this process, too, it is not there any more
                self._try(partial(Journal.drop, row=left.row))
            if mark != _NOTHING:
                self._set_mark(_ALL if is_deadly else once + (mark == once))
            yield replace(left, is_given_up=is_deadly)

    def _set_mark(self, mark: int) -> None:
        self._try(lambda journal: journal.set_mark(mark))
        self.commit()

    def repeatable(self) -> Iterator[StoredAnswer]:
        """Answers that an earlier process gave: one by one, for together they are megabytes."""
        try:
            for known in self._journal.repeatable():
                if known.row in self._earlier:
                    self._earlier.discard(known.row)
                    self._repeated.add(known.row)
                    yield known
        except JournalError as error:
            if self._journal.path is not None:  # or `forget` met it before
                self._fail(str(error))

    def held(self) -> list[Quarantined]:
        """What an earlier process was not to run again."""
        return self._try(lambda journal: list(journal.held()))

    def hold(self, one: Quarantined) -> None:
        """The next process is not to run it either."""
        self._released.discard(one.fingerprint)
        self._try(lambda journal: journal.hold(one))

    def release(self, fingerprint: str) -> None:
        self._try(lambda journal: journal.release(fingerprint))
        if self.fault is not None:
            self._released.add(fingerprint)

    def accept(self, message: Message, task: str, arrived: Moment) -> int:
        """A request that has come; gives its row."""
        row = self._try(lambda journal: journal.accept(message, task, arrived))
        self._owed.add(row)
        return row

    def free_row(self) -> int:
        """For a request that is answered at once: with its answer it is written for the first time."""
        return self._journal.free_row()

    def drop(self, row: int) -> None:
        """It needs no answer of its own."""
        self._owed.discard(row)
        self._try(lambda journal: journal.drop(row))

    def answer(self, row: int, task: str, reply: Publication, key: bytes | None, ended: Moment) -> None:
        """Its reply, from now on instead of the request. key: None = it is not given again."""
        self._owed.discard(row)
        self._undelivered.add(row)
        (self._repeated.discard if key is None else self._repeated.add)(row)
        self._try(lambda journal: journal.answer(row, task, reply, key, ended))

    def delivered(self, row: int) -> None:
        """The broker has the reply."""
        self._undelivered.discard(row)
        self._try(lambda journal: journal.delivered(row))

    def redirect(self, row: int, topic: str) -> None:
        """Its reply goes there."""
        self._try(lambda journal: journal.redirect(row, topic))

    def forget(self, row: int) -> None:
        """Its answer is not given again."""
        self._repeated.discard(row)
        self._try(lambda journal: journal.forget(row))

    def recall(self, row: int) -> bytes | None:
        """The reply that was recorded with a key; None: it cannot be read any more."""
        return self._try(lambda journal: journal.recall(row))

    def reply(self, row: int) -> tuple[str, Publication] | None:
        """A reply and its task; None: it cannot be read any more."""
        return self._try(lambda journal: journal.reply(row))

    def commit(self) -> None:
        """What was told is kept, whatever becomes of this process."""
        self.is_dirty |= self._try(Journal.commit)

    @property
    def is_volatile(self) -> bool:
        """Whether there is no disk to wait for."""
        return self._sync is None

    def bring_to_disk(self, generation: int, *, unacknowledged: int) -> None:
        """All that is committed; `Synced` tells. As of `JournalSync.want`."""
        self.is_dirty = False
        if self._sync is not None:
            self._sync.want(generation, unacknowledged=unacknowledged)

    def synced(self, event: Synced) -> None:
        """The journal's thread has told."""
        if event.fault is not None:
            self._fail(event.fault)

    def tend(self, now: float) -> list[tuple[int, Publication]]:
        """What is due now and then. Gives replies of an earlier process, if its record can be read at last."""
        if self._sync is not None and self._sync.is_behind and now >= self._checkpoint_at:
            self._checkpoint_at = now if self._try(Journal.checkpoint) else now + READERS_GONE_S
            if self._sync is not None:
                self._sync.is_behind = False
        if self.fault is None or self._path is None or now < self._try_at:
            return []
        return self._go_to_disk(self._path)

    def stop(self, timeout_s: float) -> int | None:
        """After what was to be brought to the disk. Gives the generation that is there; None = all is volatile."""
        if self._sync is None:
            return None
        self._sync.stop(timeout_s)
        return self._sync.synced

    def close(self) -> None:
        self._journal.close()

    def _try(self, act: Callable[[Journal], _T]) -> _T:
        try:
            return act(self._journal)
        except JournalError as error:
            if self._journal.path is None:
                raise
            self._fail(str(error))
            return act(self._journal)

    def _fail(self, reason: str) -> None:
        if self.fault is None:
            log.error("requests are kept in memory only, and end with this agent journal=%s: %s", self._path, reason)
        self.fault = reason
        self._try_at = time.monotonic() + TRY_AGAIN_S
        if self._sync is not None:
            self._sync.stop(0.0)
            self._sync = None
        if self._journal.path is not None:
            failed, self._journal = self._journal, Journal(None)
            with suppress(JournalError):  # what cannot be read any more is in the parts that it is for, too
                self._journal.take_over(failed)
            failed.close()
