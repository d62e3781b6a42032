"""What was asked and what is answered, on its way to the disk and to the broker. Belongs to the agent's thread alone.

In this order, whatever kills the agent in between: a request is recorded, run, and answered in the record; only then is
its reply sent. So an answer that a caller may have is never found anew. The broker is told that we have the request
(PUBACK, in order of arrival) once it would outlive a power cut; and its reply is kept until the broker has that.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from edge_agent.core.clock import Moment, moment
from edge_agent.core.inbound import Message
from edge_agent.core.messages import shortened
from edge_agent.core.publications import Publication
from edge_agent.core.topics import Topics
from edge_agent.mqtt.link import MqttLink
from edge_agent.mqtt.link_events import Received
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.store.journal_file import FILE
from edge_agent.store.journal_sync import Synced
from edge_agent.store.record import Record
from edge_agent.store.rows import Quarantined, StoredAnswer, StoredRequest

log = logging.getLogger(__name__)

# That the broker has a reply is written with what comes next, or so long after: until then a kill has it sent again.
CONFIRMED_WITHIN_S = 0.25
# A broker that does not take a reply now is asked so often, with so long between.
MOST_TRIES, POSTPONED_S = 20, 15.0


class Delivery:
    """`flush` is called when an event has been dealt with: nothing is recorded, sent or acknowledged before."""

    def __init__(self, folder: Path | None, link: MqttLink, topics: Topics, deliver: Callable[[Synced], None]) -> None:
        """folder: of the journal; None = in memory only. deliver: hears of what is on the disk, from another thread."""
        # Replies that the broker takes on no topic.
        self.lost = 0
        self._topics = topics
        self._record = Record(None if folder is None else folder / FILE, deliver)
        self._link = link
        self._staged: list[tuple[int | None, Publication]] = []
        self._sent: dict[int, int] = {}
        self._received: list[Received] = []
        self._unacknowledged: deque[tuple[int, Received]] = deque()
        self._generation = 0
        # Replies that the broker took no time for, and when they are due again; and how often it did not.
        self._postponed: deque[tuple[float, int]] = deque()
        self._tries: dict[int, int] = {}
        self._confirmed: list[int] = []
        self._confirm_by = 0.0

    def start(self) -> None:
        """Opens the journal; replies of an earlier process that the broker may not have are sent with the next ones."""
        self._staged.extend(self._record.start())

    @property
    def fault(self) -> str | None:
        """Why nothing is kept on disk although it should be; None = as it should be."""
        return self._record.fault

    @property
    def has_earlier(self) -> bool:
        """Whether earlier processes left anything that can be taken over now."""
        return self._record.has_earlier

    def taken_over(self) -> None:
        """All that they left."""
        self._record.taken_over()

    def unanswered(self, now: Moment) -> Iterator[StoredRequest]:
        """Requests of earlier processes: each is taken over when the next one is asked for."""
        return self._record.unanswered(now)

    def repeatable(self) -> Iterator[StoredAnswer]:
        """Answers that an earlier process gave: one by one, for together they are megabytes."""
        return self._record.repeatable()

    def held(self) -> list[Quarantined]:
        """What an earlier process was not to run again."""
        return self._record.held()

    def hold(self, one: Quarantined) -> None:
        """The next process is not to run it either."""
        self._record.hold(one)

    def release(self, fingerprint: str) -> None:
        self._record.release(fingerprint)

    def accept(self, message: Message, task: str) -> int | None:
        """A request that is to be answered; gives its row. None: at QoS 0 nothing is promised, nor kept."""
        return None if message.qos == 0 else self._record.accept(message, task, moment(message.received_at))

    def refuse(self, message: Message) -> int | None:
        """As `accept`, of what is answered before the next `flush`: it may be of any size, and is not written."""
        return None if message.qos == 0 else self._record.free_row()

    def drop(self, row: int | None) -> None:
        """It needs no answer of its own."""
        if row is not None:
            self._record.drop(row)

    def partial(self, publication: Publication) -> None:
        """A piece of an answer, at once and at most once."""
        self._link.publish(publication)

    def reply(self, publication: Publication, *, row: int | None, task: str, key: bytes | None) -> bool:
        """The terminal reply to a request. key: what repetitions are known by, None = the answer is not given again.

        False: the broker takes no message of this size.
        """
        if not self._link.outbox.can_send(publication):
            return False
        if row is not None:
            self._record.answer(row, task, publication, key, moment(time.monotonic()))
        self._staged.append((row, publication))
        return True

    def recall(self, row: int) -> bytes | None:
        """The reply that was recorded with a key; None: it cannot be read any more."""
        return self._record.recall(row)

    def forget(self, row: int | None) -> None:
        """The answer is not given again."""
        if row is not None:
            self._record.forget(row)

    def received(self, received: Received) -> None:
        """It has been dealt with, and is acknowledged when that is on the disk."""
        self._received.append(received)

    def flush(self, now: float) -> None:
        """Commits, then sends; acknowledges what needs no disk."""
        for number, result in self._link.outbox.take_results():
            if (row := self._sent.pop(number, None)) is not None:
                self._on_result(row, result, now)
        self._send_postponed(now)
        if self._staged or self._received or now >= self._confirm_by:
            self._confirm_all(now)
        self._record.commit()
        staged, self._staged = self._staged, []
        for owed, publication in staged:
            sent = self._link.publish(publication)
            if owed is not None and sent is not None:
                self._sent[sent] = owed
            elif owed is not None and not self._link.outbox.can_send(publication):  # it did as this was recorded
                self._shorten(owed)
            elif owed is not None:  # dropped, and told so by the connection
                self._confirmed.append(owed)
        if self._record.is_dirty or self._received:
            self._acknowledge_when_safe()
        if self._record.is_volatile:
            self._acknowledge(self._generation)
        self._staged.extend(self._record.tend(now))

    def _on_result(self, row: int, result: PublishResult, now: float) -> None:
        match result:
            case PublishResult.CONFIRMED:
                self._confirmed.append(row)
            case PublishResult.REJECTED:
                self._shorten(row)
            case PublishResult.FORBIDDEN:
                self._redirect(row)
            case PublishResult.POSTPONED:
                self._postpone(row, now)

    def _shorten(self, row: int) -> None:
        """The broker does not take its reply: its caller is to hear that."""
        found = self._record.reply(row)
        payload = None if found is None else shortened(found[1].payload)
        if found is None or payload is None:
            self._redirect(row)
            return
        task, reply = found
        if not self.reply(replace(reply, payload=payload), row=row, task=task, key=None):
            self._redirect(row)

    def _redirect(self, row: int) -> None:
        """The broker takes nothing where its reply was to go: whoever listens to the task hears it."""
        found = self._record.reply(row)
        topic = None if found is None else self._topics.response(found[0])
        if found is None or topic is None or topic == found[1].topic:
            self.lost += 1
            log.error("a reply is lost row=%s: the broker refuses it", row)
            self._confirmed.append(row)
            return
        self._record.redirect(row, topic)
        self._staged.append((row, replace(found[1], topic=topic)))

    def _postpone(self, row: int, now: float) -> None:
        """The broker does not take its reply now."""
        self._tries[row] = self._tries.get(row, 0) + 1
        if self._tries[row] < MOST_TRIES:
            self._postponed.append((now + POSTPONED_S, row))
        else:
            del self._tries[row]
            self._redirect(row)

    def _send_postponed(self, now: float) -> None:
        while self._postponed and self._postponed[0][0] <= now:
            _, row = self._postponed.popleft()
            found = self._record.reply(row)
            if found is None:
                self._confirmed.append(row)
            else:
                self._staged.append((row, found[1]))

    @property
    def postponed(self) -> int:
        """How many replies are to be sent again."""
        return len(self._postponed)

    def _confirm_all(self, now: float) -> None:
        for row in self._confirmed:
            self._tries.pop(row, None)
            self._record.delivered(row)
        self._confirmed.clear()
        self._confirm_by = now + CONFIRMED_WITHIN_S

    def _acknowledge_when_safe(self) -> None:
        self._generation += 1
        self._unacknowledged.extend((self._generation, received) for received in self._received)
        self._received.clear()
        self._record.bring_to_disk(self._generation, unacknowledged=len(self._unacknowledged))

    def _acknowledge(self, generation: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= generation:
            _, received = self._unacknowledged.popleft()
            received.link.acknowledge(received)

    def synced(self, event: Synced) -> None:
        """The journal's thread has told."""
        self._record.synced(event)
        self._acknowledge(event.generation)

    def stop(self, timeout_s: float) -> None:
        """The last of what was asked and answered: on the disk, handed to the connection, acknowledged."""
        self.flush(time.monotonic())
        generation = self._record.stop(timeout_s)
        self._acknowledge(self._generation if generation is None else generation)

    def close(self) -> None:
        """When the connection has sent what it could."""
        self._confirm_by = 0.0
        self.flush(time.monotonic())
        self._record.close()
