"""The order of things: a reply is committed, then sent; a request is on the disk, then acknowledged."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import replace

from edge_agent.core.clock import moment
from edge_agent.core.inbound import Message
from edge_agent.core.messages import shortened
from edge_agent.core.publications import Publication
from edge_agent.core.topics import Topics
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import Received
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.store.fsync import Synced
from edge_agent.store.store import Store

log = logging.getLogger(__name__)

# A confirmation is written with the next change, or after this time. After a kill before that, the next process sends
# the reply again.
CONFIRMED_WITHIN_S = 0.25
# How often, and after how long each time, a reply is sent again that the broker does not take now.
MAX_TRIES, RETRY_S = 20, 15.0


class Delivery:
    """Joins the store and the data connection. Nothing is written, sent or acknowledged before `flush`.

    A row is the number of a request in the store. None = it came at QoS 0, and nothing of it is kept.
    """

    def __init__(self, store: Store, link: MqttLink, topics: Topics) -> None:
        # Replies that the broker takes on no topic.
        self.lost = 0
        self.store = store
        self._link = link
        self._topics = topics
        # Replies to send, and rows by the number of the message that is on its way.
        self._staged: list[tuple[int | None, Publication]] = []
        self._sent: dict[int, int] = {}
        # Messages to acknowledge, before and after they have the generation of an fsync.
        self._received: list[Received] = []
        self._unacknowledged: deque[tuple[int, Received]] = deque()
        self._generation = 0
        # Rows whose reply is due again, and how often each was sent.
        self._postponed: deque[tuple[float, int]] = deque()
        self._tries: dict[int, int] = {}
        self._confirmed: list[int] = []
        self._confirm_by = 0.0

    def start(self) -> None:
        """Opens the store. Sends the replies of an earlier process that the broker may not have."""
        self._staged.extend(self.store.start())

    def accept(self, message: Message, task: str) -> int | None:
        """A request that will be answered; gives its row."""
        return None if message.qos == 0 else self.store.accept(message, task, moment(message.received_at))

    def refuse(self, message: Message) -> int | None:
        """As `accept`, for a request that is answered before the next `flush`: it may be large and is not written."""
        return None if message.qos == 0 else self.store.free_row()

    def drop(self, row: int | None) -> None:
        """The request needs no reply of its own."""
        if row is not None:
            self.store.drop(row)

    def partial(self, publication: Publication) -> None:
        """A piece of an answer: sent at once, at most once."""
        self._link.publish(publication)

    def reply(self, publication: Publication, *, row: int | None, task: str, key: bytes | None) -> bool:
        """The terminal reply. key: identifies repetitions of the request, None = the reply is not repeated.

        False: the broker takes no message of this size there.
        """
        if not self._link.outbox.can_send(publication):
            return False
        if row is not None:
            self.store.answer(row, task, publication, key, moment(time.monotonic()))
        self._staged.append((row, publication))
        return True

    def forget(self, row: int | None) -> None:
        """The reply is not repeated any more."""
        if row is not None:
            self.store.forget(row)

    def received(self, received: Received) -> None:
        """The message is dealt with, and is acknowledged when that is on the disk."""
        self._received.append(received)

    def flush(self, now: float) -> None:
        """Commits, then sends; requests an fsync for what waits to be acknowledged."""
        for number, result in self._link.outbox.take_results():
            if (row := self._sent.pop(number, None)) is not None:
                self._on_result(row, result, now)
        self._resend_due(now)
        if self._staged or self._received or now >= self._confirm_by:
            self._write_confirmed(now)
        self.store.commit()
        self._send_staged()
        if self.store.is_dirty or self._received:
            self._generation += 1
            self._unacknowledged.extend((self._generation, received) for received in self._received)
            self._received.clear()
            if not self.store.request_fsync(self._generation, unacknowledged=len(self._unacknowledged)):
                self._acknowledge(self._generation)

    def maintain(self, now: float) -> None:
        """Brings the store back to a disk that failed, and keeps its files small. Call it several times a second."""
        self.store.maintain(now)

    def _send_staged(self) -> None:
        staged, self._staged = self._staged, []
        for row, publication in staged:
            number = self._link.publish(publication)
            if row is None:
                continue
            if number is not None:
                self._sent[number] = row
            elif not self._link.outbox.can_send(publication):  # the broker's limit has changed
                self._shorten(row)
            else:  # dropped and logged by the outbox
                self._confirmed.append(row)

    def _on_result(self, row: int, result: PublishResult, now: float) -> None:
        match result:
            case PublishResult.CONFIRMED:
                self._confirmed.append(row)
            case PublishResult.REJECTED:
                self._shorten(row)
            case PublishResult.FORBIDDEN:
                self._redirect(row)
            case PublishResult.POSTPONED:
                self._tries[row] = self._tries.get(row, 0) + 1
                if self._tries[row] < MAX_TRIES:
                    self._postponed.append((now + RETRY_S, row))
                else:
                    self._redirect(row)

    def _shorten(self, row: int) -> None:
        """The broker does not take the reply: a short `failed/internal` takes its place."""
        stored = self.store.reply(row)
        payload = None if stored is None else shortened(stored[1].payload)
        if stored is None or payload is None:
            self._redirect(row)
            return
        task, reply = stored
        if not self.reply(replace(reply, payload=payload), row=row, task=task, key=None):
            self._redirect(row)

    def _redirect(self, row: int) -> None:
        """The broker takes nothing on the reply topic: the reply goes to the topic of its task."""
        stored = self.store.reply(row)
        topic = None if stored is None else self._topics.response(stored[0])
        if stored is None or topic is None or topic == stored[1].topic:
            self.lost += 1
            log.error("reply lost row=%s: the broker takes it on no topic", row)
            self._confirmed.append(row)
            return
        self.store.redirect(row, topic)
        self._staged.append((row, replace(stored[1], topic=topic)))

    def _resend_due(self, now: float) -> None:
        while self._postponed and self._postponed[0][0] <= now:
            _, row = self._postponed.popleft()
            if (stored := self.store.reply(row)) is not None:
                self._staged.append((row, stored[1]))

    @property
    def postponed(self) -> int:
        """How many replies are sent again later."""
        return len(self._postponed)

    def _write_confirmed(self, now: float) -> None:
        for row in self._confirmed:
            self._tries.pop(row, None)
            self.store.delivered(row)
        self._confirmed.clear()
        self._confirm_by = now + CONFIRMED_WITHIN_S

    def _acknowledge(self, generation: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= generation:
            _, received = self._unacknowledged.popleft()
            received.link.acknowledge(received)

    def synced(self, event: Synced) -> None:
        """An fsync has ended. After a fault everything is in memory, and is acknowledged too."""
        self.store.on_synced(event)
        self._acknowledge(event.generation)

    def stop(self, timeout_s: float) -> None:
        """Flushes, waits for the disk, acknowledges what is on it."""
        self.flush(time.monotonic())
        generation = self.store.stop(timeout_s)
        self._acknowledge(self._generation if generation is None else generation)

    def close(self) -> None:
        """Writes the last confirmations, after the connection has stopped."""
        self._confirm_by = 0.0
        self.flush(time.monotonic())
        self.store.close()
