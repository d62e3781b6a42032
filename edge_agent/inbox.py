"""What the other threads tell the agent's thread: in order of urgency, bounded."""

from __future__ import annotations

import itertools
import queue
import threading

from edge_agent.board.reading import BoardReading
from edge_agent.mqtt.link_events import Disconnected, LinkEvent
from edge_agent.store.fsync import Synced
from edge_agent.worker.process import WorkerExited
from edge_agent.worker.supervisor import FromWorker

MAX_INBOX = 1000
# How long a thread that waits at a full inbox may overlook that it was closed.
_LONGEST_WAIT_S = 0.25

InboxEvent = LinkEvent | FromWorker | BoardReading | Synced


class Inbox:
    """`deliver` is for the other threads, the rest for the agent's."""

    def __init__(self) -> None:
        # Urgency, order of arrival, event: the worker's come first, or it would stand idle behind a flood of requests.
        self._entries = _Entries(MAX_INBOX)
        self._arrivals = itertools.count()
        self._is_closed = threading.Event()

    def deliver(self, event: InboxEvent) -> None:
        """A full inbox slows its callers down; after the end nobody reads it, nor waits for it."""
        entry = (isinstance(event, LinkEvent), next(self._arrivals), event)
        # paho and a worker that is handed over may hold a lock that the agent's thread waits for: it would never empty
        # the inbox.
        if isinstance(event, Disconnected) or (isinstance(event, FromWorker) and isinstance(event.event, WorkerExited)):
            self._entries.put_at_once(entry)
            return
        while not self._is_closed.is_set():
            try:
                self._entries.put(entry, timeout=_LONGEST_WAIT_S)
            except queue.Full:
                continue
            return

    def take(self, timeout_s: float) -> InboxEvent | None:
        """The next event; None if none comes in time."""
        try:
            return self._entries.get(timeout=max(0.0, timeout_s))[2]
        except queue.Empty:
            return None

    def close(self) -> None:
        self._is_closed.set()


class _Entries(queue.PriorityQueue[tuple[bool, int, InboxEvent]]):
    def put_at_once(self, entry: tuple[bool, int, InboxEvent]) -> None:
        """However full it is."""
        with self.mutex:
            self._put(entry)
            self.unfinished_tasks += 1
            self.not_empty.notify()
