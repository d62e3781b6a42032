"""What one connection is subscribed to.

Threads: paho's network thread calls the `on_…` methods; the agent's thread calls the rest. A lock orders the packets.
"""

import logging
import threading
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)


class Subscriptions:
    def __init__(self, subscribe: Callable[[str], int | None], unsubscribe: Callable[[str], object]) -> None:
        """Both send the packet for one filter; `subscribe` gives its number."""
        # By filter, why the broker refuses it; None if it is granted.
        self.answers: dict[str, str | None] = {}
        self.wanted: frozenset[str] = frozenset()
        # Earlier filters. The broker's session may still have them, so each connection unsubscribes from them again.
        self.former: frozenset[str] = frozenset()
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        # By packet number.
        self._subscribing: dict[int | None, str] = {}
        self._is_connected = False
        self._lock = threading.Lock()

    @property
    def refused(self) -> list[str]:
        return sorted(text for text in self.wanted if self.answers.get(text) is not None)

    def replace(self, filters: Iterable[str], former: Iterable[str] = ()) -> None:
        """Wants these from now on, at this and later connections. `former` are filters of an earlier process."""
        wanted = frozenset(filters)
        with self._lock:
            added = wanted - self.wanted
            self.former = self.former.union(self.wanted, former) - wanted
            self.wanted = wanted
            if self._is_connected:
                # What is new comes first, so that a topic that an old and a new filter match keeps a subscription.
                self._send(added, self.former)

    def on_connected(self) -> None:
        with self._lock:
            self._is_connected = True
            self._subscribing.clear()
            self._send(self.wanted, self.former)

    def on_disconnected(self) -> None:
        self._is_connected = False

    def on_answer(self, number: int, refusal: str | None) -> None:
        """Takes a SUBACK. `refusal` is in the broker's words, None if it granted the filter."""
        topic_filter = self._subscribing.pop(number, None)
        if topic_filter is None:
            return
        self.answers[topic_filter] = refusal
        if refusal is not None:
            log.error("subscription refused topic=%r reason=%s", topic_filter, refusal)

    def _send(self, added: Iterable[str], removed: Iterable[str]) -> None:
        for topic_filter in sorted(added):
            self._subscribing[self._subscribe(topic_filter)] = topic_filter
        for topic_filter in sorted(removed):
            self._unsubscribe(topic_filter)
