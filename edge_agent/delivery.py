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
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from edge_agent.clock import Moment, moment
from edge_agent.journal import Journal, Repeatable, Unanswered
from edge_agent.journal_file import FILE, JournalError
from edge_agent.journal_sync import JournalSync, Synced
from edge_agent.messages import shortened
from edge_agent.mqtt_link import Inbound, MqttLink, Publication
from edge_agent.quarantine import Quarantined

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# A disk that was full or away may be back.
TRY_AGAIN_S = 60.0
# That the broker has a reply is written with what comes next, or so long after: until then a kill has it sent again.
CONFIRMED_WITHIN_S = 0.25

# Who reads the journal's file (a backup, a curious one) may be done: until then its changes pile up.
READERS_GONE_S = 10.0

# Marks of the journal's: what a process takes over, for the next one, should that end it. All at once, or one by one.
_NOTHING, _ALL, _FIRST_ROW = 0, 1, 2
_ROWS = 1 << 30


@dataclass(frozen=True, slots=True)
class Left:
    """A request of an earlier process. inbound: as if it came here.

    is_deadly: two processes ended as they took it over.
    """

    row: int
    task: str
    inbound: Inbound
    is_deadly: bool


class Delivery:
    """`flush` is called when an event has been dealt with: nothing is recorded, sent or acknowledged before."""

    def __init__(self, folder: Path | None, link: MqttLink, deliver: Callable[[Synced], None]) -> None:
        """folder: of the journal; None = in memory only. deliver: hears of what is on the disk, from another thread."""
        # Why nothing is kept on disk although it should be; None = as it should be.
        self.fault: str | None = None
        self._path = None if folder is None else folder / FILE
        self._link = link
        self._deliver = deliver
        self._staged: list[tuple[int | None, Publication]] = []
        self._sent: dict[int, int] = {}
        # Requests on record that are not answered yet.
        self._owed: set[int] = set()
        # And those with answers that are given again.
        self._repeated: set[int] = set()
        self._received: list[Inbound] = []
        self._unacknowledged: deque[tuple[int, Inbound]] = deque()
        self._generation = 0
        # Whether anything was committed that is not on its way to the disk yet.
        self._is_dirty = False
        self._sync: JournalSync | None = None
        self._try_at = 0.0
        # Rows of processes before this one that are not taken over yet.
        self._earlier: frozenset[int] = frozenset()
        # Whether it is known what they left: a disk that was full or away at the start may come back.
        self._is_read = False
        self._confirmed: list[int] = []
        self._confirm_by = 0.0
        self._checkpoint_at = 0.0
        self._journal = Journal(None)

    def start(self) -> None:
        """Opens the journal; replies of an earlier process that the broker may not have are sent with the next ones."""
        if self._path is not None:
            self._open(self._path)
        self._is_read = self.fault is None
        self._earlier = self._try(Journal.rows)
        self._staged.extend(self._try(lambda journal: list(journal.undelivered())))

    def _open(self, path: Path) -> None:
        try:
            journal = Journal(path)
            self._sync = JournalSync(path, self._deliver)
        except (JournalError, OSError) as error:
            self._fail(str(error))
            return
        self._journal = journal

    def _return_to_disk(self, path: Path) -> None:
        self._try_at = time.monotonic() + TRY_AGAIN_S
        in_memory = self._journal
        self._open(path)
        if self._journal is in_memory:
            return
        earlier: frozenset[int] = frozenset()
        undelivered: list[tuple[int, Publication]] = []
        try:
            if self._is_read:
                self._take_over(in_memory)
            else:
                earlier, undelivered = self._journal.rows(), list(self._journal.undelivered())
                self._journal.take_in(in_memory)
            self._journal.commit()
        except JournalError as error:
            self._journal.close()
            self._journal = in_memory
            self._fail(str(error))
        else:
            log.warning("requests are kept on disk again journal=%s", path)
            self.fault = None
            self._is_read, self._earlier = True, earlier
            self._staged.extend(undelivered)
            self._is_dirty = True
            in_memory.close()

    def _take_over(self, in_memory: Journal) -> None:
        """What failed may not have been readable then, and be so now: what is known to be in it stays."""
        undelivered = frozenset(self._sent.values())
        spared = (undelivered | self._owed | self._repeated) - in_memory.rows()
        self._journal.take_over(in_memory, spared)
        # Nothing was written of what became of them.
        for row in spared - self._owed - undelivered:
            self._journal.delivered(row)
        for row in spared - self._owed - self._repeated:
            self._journal.forget(row)

    @property
    def has_earlier(self) -> bool:
        """Whether earlier processes left anything that this one has not taken over."""
        return bool(self._earlier)

    def taken_over(self) -> None:
        """All that they left."""
        self._earlier = frozenset()
        if self._try(lambda journal: journal.mark) != _NOTHING:
            self._set_mark(_NOTHING)

    def unanswered(self, now: Moment) -> Iterator[Left]:
        """What an earlier process left, to be answered by this one: it is taken over when the next one is asked for."""
        found = [left for left in self._try(lambda journal: list(journal.unanswered())) if left.row in self._earlier]
        self._owed.update(left.row for left in found)
        mark = self._try(lambda journal: journal.mark)
        if found and mark == _NOTHING:
            self._set_mark(_ALL)
        for left in found:
            own_mark = _FIRST_ROW + left.row % _ROWS
            if mark != _NOTHING:
                if mark == own_mark:  # should its answer end this process, too, it is not there any more
                    self._try(partial(Journal.drop, row=left.row))
                self._set_mark(_ALL if mark == own_mark else own_mark)
            yield Left(left.row, left.task, self._inbound(left, now), is_deadly=mark == own_mark)

    def _set_mark(self, mark: int) -> None:
        self._try(lambda journal: journal.set_mark(mark))
        self._is_dirty |= self._try(Journal.commit)

    def _inbound(self, left: Unanswered, now: Moment) -> Inbound:
        return Inbound(
            link=self._link,
            topic=left.topic,
            payload=left.payload,
            retain=False,
            duplicate=False,
            response_topic=left.response_topic,
            correlation=left.correlation,
            content_type=left.content_type,
            expiry_s=left.expiry_s,
            received_at=left.arrived.placed(now),
            epoch=0,  # it was acknowledged, or will come again
            packet_id=left.packet_id,
            qos=1,
        )

    def repeatable(self) -> Iterator[Repeatable]:
        """Answers that an earlier process gave: one by one, for together they are megabytes."""
        try:
            for known in self._journal.repeatable():
                if known.row in self._earlier:
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
        self._try(lambda journal: journal.hold(one))

    def release(self, fingerprint: str) -> None:
        self._try(lambda journal: journal.release(fingerprint))

    def accept(self, inbound: Inbound, task: str) -> int | None:
        """A request that is to be answered; gives its row. None: at QoS 0 nothing is promised, nor kept."""
        if inbound.qos == 0:
            return None
        row = self._try(lambda journal: journal.accept(inbound, task, moment(inbound.received_at)))
        self._owed.add(row)
        return row

    def refuse(self, inbound: Inbound) -> int | None:
        """As `accept`, of what is answered before the next `flush`: it may be of any size, and is not written."""
        return None if inbound.qos == 0 else self._journal.free_row()

    def drop(self, row: int | None) -> None:
        """It needs no answer of its own."""
        if row is not None:
            self._owed.discard(row)
            self._try(lambda journal: journal.drop(row))

    def partial(self, publication: Publication) -> None:
        """A piece of an answer, at once and at most once."""
        self._link.publish(publication)

    def reply(self, publication: Publication, *, row: int | None, task: str, key: bytes | None) -> bool:
        """The terminal reply to a request. key: what repetitions are known by, None = the answer is not given again.

        False: the broker takes no message of this size.
        """
        if not self._link.takes(publication):
            return False
        if row is not None:
            ended = moment(time.monotonic())
            self._owed.discard(row)
            (self._repeated.discard if key is None else self._repeated.add)(row)
            self._try(lambda journal: journal.answer(row, task, publication, key, ended))
        self._staged.append((row, publication))
        return True

    def recall(self, row: int) -> bytes | None:
        """The reply that was recorded with a key; None: it cannot be read any more."""
        return self._try(lambda journal: journal.recall(row))

    def forget(self, row: int | None) -> None:
        """The answer is not given again."""
        if row is not None:
            self._repeated.discard(row)
            self._try(lambda journal: journal.forget(row))

    def received(self, inbound: Inbound) -> None:
        """It has been dealt with, and is acknowledged when that is on the disk."""
        self._received.append(inbound)

    def flush(self, now: float) -> None:
        """Commits, then sends; acknowledges what needs no disk."""
        for number in self._link.take_confirmed():
            if (row := self._sent.pop(number, None)) is not None:
                self._confirmed.append(row)
        for number in self._link.take_refused():
            if (row := self._sent.pop(number, None)) is not None:
                self._shorten(row)
        if self._staged or self._received or now >= self._confirm_by:
            self._confirm_all(now)
        self._is_dirty |= self._try(Journal.commit)
        for owed, publication in self._staged:
            sent = self._link.publish(publication)
            if owed is not None and sent is not None:
                self._sent[sent] = owed
            elif owed is not None:  # dropped, and told so by the connection
                self._confirmed.append(owed)
        self._staged.clear()
        if self._is_dirty or self._received:
            self._acknowledge_when_safe()
        if self._sync is None:
            self._acknowledge(self._generation)
        elif self._sync.is_behind and now >= self._checkpoint_at:
            self._checkpoint_at = now if self._try(Journal.checkpoint) else now + READERS_GONE_S
            if self._sync is not None:
                self._sync.is_behind = False
        if self.fault is not None and self._path is not None and now >= self._try_at:
            self._return_to_disk(self._path)

    def _shorten(self, row: int) -> None:
        """Its reply was handed over, and the broker does not take it: its caller is to hear that."""
        found = self._try(lambda journal: journal.reply(row))
        payload = None if found is None else shortened(found[1].payload)
        if found is None or payload is None:
            self._confirmed.append(row)
            return
        task, reply = found
        if not self.reply(replace(reply, payload=payload), row=row, task=task, key=None):
            self._confirmed.append(row)

    def _confirm_all(self, now: float) -> None:
        for row in self._confirmed:
            self._try(partial(Journal.delivered, row=row))
        self._confirmed.clear()
        self._confirm_by = now + CONFIRMED_WITHIN_S

    def _acknowledge_when_safe(self) -> None:
        self._generation += 1
        self._unacknowledged.extend((self._generation, inbound) for inbound in self._received)
        self._received.clear()
        self._is_dirty = False
        if self._sync is not None:
            self._sync.want(self._generation, unacknowledged=len(self._unacknowledged))

    def _acknowledge(self, generation: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= generation:
            _, inbound = self._unacknowledged.popleft()
            inbound.link.acknowledge(inbound)

    def synced(self, event: Synced) -> None:
        """The journal's thread has told."""
        if event.fault is not None:
            self._fail(event.fault)
        self._acknowledge(event.generation)

    def stop(self, timeout_s: float) -> None:
        """The last of what was asked and answered: on the disk, handed to the connection, acknowledged."""
        self.flush(time.monotonic())
        if self._sync is not None:
            self._sync.stop(timeout_s)
            self._acknowledge(self._sync.synced)

    def close(self) -> None:
        """When the connection has sent what it could."""
        self._confirm_by = 0.0
        self.flush(time.monotonic())
        self._journal.close()

    def _try(self, act: Callable[[Journal], _T]) -> _T:
        """A journal that fails is not worth an unanswered request: from then on all is kept in memory."""
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
