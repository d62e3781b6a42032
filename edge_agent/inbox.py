"""Events of the other threads for the agent's thread, in order of urgency."""

import itertools
import queue
import threading

from edge_agent.board.reading import BoardReading
from edge_agent.mqtt.link import LinkEvent, Received
from edge_agent.requests.origin import SharedRequest
from edge_agent.requests.renderer import Rendered
from edge_agent.store.fsync import Synced
from edge_agent.worker.supervisor import FromWorker

MAX_MESSAGES = 1000
# A thread that waits at a full inbox notices after at most this long that the inbox was closed.
_MAX_WAIT_S = 0.25

InboxEvent = LinkEvent | SharedRequest | FromWorker | Rendered | BoardReading | Synced


class Inbox:
    """The other threads call `deliver`, and the agent's thread calls the rest."""

    def __init__(self) -> None:
        # By urgency, then by arrival. The worker's events come before messages, so that it is not idle during a flood.
        self._entries: queue.PriorityQueue[tuple[bool, int, InboxEvent]] = queue.PriorityQueue()
        self._arrivals = itertools.count()
        self._free_places = threading.Semaphore(MAX_MESSAGES)
        self._is_closed = threading.Event()

    def deliver(self, event: InboxEvent) -> None:
        """Waits with a message while MAX_MESSAGES are in the inbox, to slow down the connection that floods it.

        Other events never wait. Their threads may hold a lock that the agent's thread needs.
        """
        is_message = isinstance(event, Received)
        while is_message and not self._free_places.acquire(timeout=_MAX_WAIT_S):
            if self._is_closed.is_set():
                return
        self._entries.put((isinstance(event, LinkEvent | SharedRequest), next(self._arrivals), event))

    def take(self, timeout_s: float) -> InboxEvent | None:
        """The next event; None if none arrives in time."""
        try:
            event = self._entries.get(timeout=max(0.0, timeout_s))[2]
        except queue.Empty:
            return None
        if isinstance(event, Received):
            self._free_places.release()
        return event

    def close(self) -> None:
        """Lets threads that wait with a message go on without it."""
        self._is_closed.set()
