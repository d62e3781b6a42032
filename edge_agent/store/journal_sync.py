"""The thread that brings the journal to the disk: several requests at once, since a memory card stands few writes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_agent.core.state_files import sync_folder
from edge_agent.store.journal_changes import begins_as_written
from edge_agent.store.journal_connection import WAL_SUFFIX, JournalError, connect
from edge_agent.store.journal_file import WAL_BYTES

# A request is acknowledged at the earliest so long after the one before it: what comes within shares one write.
URGENT_EVERY_S = 0.1
# A broker hands out 20 messages before it wants one acknowledged: with so many it is done at once, or a flood would
# wait at the broker for its refusals.
MANY = 8
# What nobody waits for. After a power cut, answers of so long before it may have to be found anew.
LAZY_EVERY_S = 1.0
# A checkpoint beside a writer that never rests is never done with, and the file would grow for ever: from then on the
# writer is to take the time.
MOST_WAL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Synced:
    """What was committed when this generation was asked for outlives a power cut. fault: why not; None = it does."""

    generation: int
    fault: str | None = None


class JournalSync:
    """Started at once. `deliver` is called by its thread."""

    def __init__(self, path: Path, deliver: Callable[[Synced], None]) -> None:
        """path: of a journal that was opened just now. Raises OSError."""
        self._path = path
        self._wal = Path(f"{path}{WAL_SUFFIX}")
        self._seen = {name: name.stat() for name in (path, self._wal)}
        self._deliver = deliver
        self._wanted = threading.Condition()
        self._generation = 0
        self._due_at: float | None = None
        self._synced_at = 0.0
        self._is_named = False
        # The latest generation that is on the disk.
        self.synced = 0
        # Whether the writer is to do the rest of a checkpoint (`Journal.checkpoint`), and clear this.
        self.is_behind = False
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def want(self, generation: int, *, unacknowledged: int) -> None:
        """What is committed now is to be brought to the disk, and told as this generation (they rise).

        unacknowledged: how many messages wait for it.
        """
        with self._wanted:
            self._generation = generation
            every_s = LAZY_EVERY_S if not unacknowledged else URGENT_EVERY_S if unacknowledged < MANY else 0.0
            due_at = self._synced_at + every_s
            self._due_at = due_at if self._due_at is None else min(self._due_at, due_at)
            self._wanted.notify()

    def stop(self, timeout_s: float) -> None:
        """After what was asked for last is on the disk."""
        with self._wanted:
            self._is_stopped = True
            self._wanted.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (generation := self._next()) is not None:
            try:
                self._sync()
            except (OSError, JournalError) as error:
                if not self._is_stopped:  # the disk may have come back while this one still waited for it
                    self._deliver(Synced(generation, str(error)))
            else:
                self.synced = generation
                self._deliver(Synced(generation))

    def _next(self) -> int | None:
        """Waits until it is time; None = this is the end."""
        with self._wanted:
            while self._due_at is None or (self._due_at > time.monotonic() and not self._is_stopped):
                if self._is_stopped:
                    return None
                self._wanted.wait(None if self._due_at is None else max(0.0, self._due_at - time.monotonic()))
            self._due_at, self._synced_at = None, time.monotonic()
            return self._generation

    def _sync(self) -> None:
        _sync_changes(self._wal)
        if not self._is_named:
            sync_folder(self._path.parent)  # the names of files that are new
            self._is_named = True
        self._check_names()
        # What changes several times until then reaches the tables' pages once.
        if (changes := self._seen[self._wal].st_size) > WAL_BYTES and not self.is_behind:
            self._checkpoint()
            self.is_behind = changes > MOST_WAL_BYTES

    def _check_names(self) -> None:
        """Raises OSError if the next process would find other files, or less: SQLite goes on with those it has open.

        By name alone: SQLite's locks would go with any descriptor of theirs that is closed in this process. There are
        none on the file of changes.
        """
        for path, seen in self._seen.items():
            now = path.stat()
            if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
                raise OSError(f"another file took the place of {path}")
            # SQLite itself makes only changes shorter, and no shorter than this.
            if now.st_size < (min(seen.st_size, WAL_BYTES) if path == self._wal else seen.st_size):
                raise OSError(f"somebody made {path} shorter")
            self._seen[path] = now

    def _checkpoint(self) -> None:
        with closing(connect(self._path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _sync_changes(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(file)  # when it was written last is worth no write of its own
        begins_with = os.pread(file, 4, 0)
        # The writer goes on meanwhile, and makes it longer or shorter.
        is_whole = any(_has_no_hole(file) for _ in range(3))
    finally:
        os.close(file)
    if not is_whole or not begins_as_written(begins_with):  # SQLite has written on behind what it had been
        raise OSError(f"somebody made {path} shorter")


def _has_no_hole(file: int) -> bool:
    """Where a file system knows no holes, it says that there is none."""
    before = os.fstat(file).st_size
    end = os.lseek(file, 0, os.SEEK_HOLE) if before else 0
    return end >= min(before, os.fstat(file).st_size)
