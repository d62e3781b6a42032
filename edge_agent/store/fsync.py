"""The thread that brings commits to the disk, with one write for several requests, because a memory card wears out."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_agent.core.files import sync_folder
from edge_agent.store.database import STORE_ERRORS, WAL_BYTES, WAL_SUFFIX, connect

# While messages wait for their PUBACK, fsyncs are at least this far apart, unless MANY_UNACKNOWLEDGED do.
URGENT_EVERY_S = 0.1
# A broker sends 20 messages before it wants a PUBACK. With this number waiting, the fsync comes at once.
MANY_UNACKNOWLEDGED = 8
# For changes that no message waits for. A power cut may undo the answers of this time.
LAZY_EVERY_S = 1.0
# While a writer never pauses, a checkpoint never completes. From this size on, the writer completes it.
MAX_WAL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Synced:
    """All that was committed before this generation was requested is on the disk, unless there was a fault."""

    generation: int
    fault: str | None = None


class FsyncThread:
    """`deliver` is called by the thread."""

    def __init__(self, path: Path, deliver: Callable[[Synced], None]) -> None:
        """`path` is that of a database that was just opened."""
        self._path = path
        self._wal = Path(f"{path}{WAL_SUFFIX}")
        self._deliver = deliver
        self._wanted = threading.Condition()
        self._generation = 0
        self._due_at: float | None = None
        self._synced_at = 0.0
        self._is_folder_synced = False
        self._is_stopped = False
        self.synced = 0  # The latest generation on the disk.
        self.needs_checkpoint = False  # Whether the writer has to complete a checkpoint, and clear this.
        self._thread = threading.Thread(target=self._run, name="fsync", daemon=True)
        self._thread.start()

    def request(self, generation: int, *, unacknowledged: int) -> None:
        """Requests an fsync of what is committed, as this generation; generations rise.

        `unacknowledged` is how many messages wait for it.
        """
        with self._wanted:
            self._generation = generation
            every_s = URGENT_EVERY_S if unacknowledged else LAZY_EVERY_S
            due_at = self._synced_at + (every_s if unacknowledged < MANY_UNACKNOWLEDGED else 0.0)
            # A wake-up costs CPU, so the thread is woken only for what is due before it wakes by itself.
            if self._due_at is None or due_at < self._due_at:
                self._due_at = due_at
                self._wanted.notify()

    def stop(self, timeout_s: float) -> None:
        """Ends the thread after the last request."""
        with self._wanted:
            self._is_stopped = True
            self._wanted.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (generation := self._wait()) is not None:
            try:
                self._sync()
            except STORE_ERRORS as error:
                if not self._is_stopped:  # Otherwise, the store has given this file up.
                    self._deliver(Synced(generation, str(error)))
            else:
                self.synced = generation
                self._deliver(Synced(generation))

    def _wait(self) -> int | None:
        """Waits until the next generation is due, and returns it; None at the end."""
        with self._wanted:
            while self._due_at is None or (self._due_at > time.monotonic() and not self._is_stopped):
                if self._is_stopped:
                    return None
                self._wanted.wait(None if self._due_at is None else max(0.0, self._due_at - time.monotonic()))
            self._due_at, self._synced_at = None, time.monotonic()
            return self._generation

    def _sync(self) -> None:
        file = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(file)
            wal_bytes = os.fstat(file).st_size
        finally:
            os.close(file)
        if not self._is_folder_synced:
            sync_folder(self._path.parent)
            self._is_folder_synced = True
        if wal_bytes > WAL_BYTES and not self.needs_checkpoint:
            with closing(connect(self._path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self.needs_checkpoint = wal_bytes > MAX_WAL_BYTES
