"""Keeps the order: a reply is committed before it is sent, and a request is on the disk before it is acknowledged."""

import json
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from edge_agent.core.clock import moment
from edge_agent.core.codes import Code, Status
from edge_agent.core.messages import Publication, Reply, json_publication
from edge_agent.core.strict_json import encode
from edge_agent.core.topics import TaskTopics, Topics
from edge_agent.core.wording import cut
from edge_agent.mqtt.link import MqttLink, Received
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.requests.origin import Origin, SharedRequest, StoreRow
from edge_agent.store.fsync import Synced
from edge_agent.store.store import Store

log = logging.getLogger(__name__)

# A confirmation is written with the next change, or after this time. If the agent is killed before that, the next
# process sends the reply again.
CONFIRMED_WITHIN_S = 0.25
# How many times a reply is sent that the broker temporarily refuses, and how long after each refusal.
MAX_TRIES, RETRY_S = 20, 15.0


@dataclass(slots=True)
class _Outgoing:
    """A reply, until the broker has it."""

    origin: Origin
    reply: Reply
    tries: int = 0  # How often the broker has answered.


class Delivery:
    """Joins the store and the data connection.

    Nothing is committed or acknowledged, and no terminal reply is sent, before `flush`. Partial replies are sent at
    once. Once the broker has a reply, its origin is settled.
    """

    def __init__(self, store: Store, link: MqttLink, topics: Topics) -> None:
        self.lost = 0  # Replies that the broker takes on no topic.
        self.store = store
        self._link = link
        self._topics = topics
        self._staged: list[_Outgoing] = []  # Sent with the next flush.
        self._sent: dict[int, _Outgoing] = {}  # By the number of the message that is on its way.
        self._postponed: deque[tuple[float, _Outgoing]] = deque()  # Replies to send again, and when.
        # Rows of replies that the broker has, and that are not marked in the store yet.
        self._delivered: list[int] = []
        self._confirm_by = 0.0
        # Messages to acknowledge: first those whose fsync is still to be requested, then those waiting for their fsync.
        self._received: list[Received] = []
        self._unacknowledged: deque[tuple[int, Received]] = deque()
        self._generation = 0

    def start(self) -> None:
        """Opens the store. Sends the replies of an earlier process that the broker may not have."""
        self._staged += [_Outgoing(self.origin_of_row(row), reply) for row, reply in self.store.start()]

    def origin_of_row(self, number: int) -> StoreRow:
        """The origin of a request that the store holds in this row."""
        return StoreRow(number, self._delivered)

    @property
    def postponed(self) -> int:
        """How many replies are sent again later."""
        return len(self._postponed)

    def send_partial(self, publication: Publication) -> None:
        """Sends a piece of an answer at once, and at most once."""
        self._link.publish(publication)

    def stage_reply(
        self, reply: Reply, *, origin: Origin, task: str, key: bytes | None, is_published: bool = True
    ) -> None:
        """Stages a terminal reply for the next `flush`. `key` is the request's, if the reply may be repeated.

        Unless `is_published`, nothing is sent, and the same commit settles the request.
        """
        if origin.row is not None:
            self.store.store_reply(origin.row, task, reply, key, moment(time.monotonic()))
            if not is_published:
                self.store.mark_delivered(origin.row)
        if is_published:
            self._staged.append(_Outgoing(origin, reply))

    def acknowledge_when_stored(self, received: Received) -> None:
        """Acknowledges a message that was dealt with, once that is on the disk."""
        self._received.append(received)

    def flush(self, now: float) -> None:
        """Commits, then sends; requests an fsync for what waits to be acknowledged."""
        for number, result in self._link.outbox.take_results():
            if (outgoing := self._sent.pop(number, None)) is not None:
                self._on_result(outgoing, result, now)
        while self._postponed and self._postponed[0][0] <= now:
            self._staged.append(self._postponed.popleft()[1])
        if self._staged or self._received or now >= self._confirm_by:
            for row in self._delivered:
                self.store.mark_delivered(row)
            self._delivered.clear()
            self._confirm_by = now + CONFIRMED_WITHIN_S
        self.store.commit()
        self._send_staged()
        if self.store.is_dirty or self._received:
            self._generation += 1
            self._unacknowledged.extend((self._generation, received) for received in self._received)
            self._received.clear()
            if not self.store.request_fsync(self._generation, unacknowledged=len(self._unacknowledged)):
                self._acknowledge(self._generation)

    def _send_staged(self) -> None:
        staged, self._staged = self._staged, []
        for outgoing in staged:
            publication = _publication(outgoing.reply)
            for whole in self._whole_replies(outgoing):
                # PUBACKs come in order, so a broker that has confirmed the reply has taken these.
                self._link.publish(whole)
            if not self._link.outbox.can_send(publication):
                self._send_fallback(outgoing, is_too_large=True)
            elif (number := self._link.publish(publication)) is not None:
                self._sent[number] = outgoing
            elif not outgoing.origin.give_back():  # The outbox has dropped and logged it.
                outgoing.origin.settle()

    def _whole_replies(self, outgoing: _Outgoing) -> Iterator[Publication]:
        """The whole reply for others, if it has no output or asks for feedback and its caller gets the output alone."""
        reply = outgoing.reply
        if b'"please_check":true' not in reply.document and b'"output":null' not in reply.document:
            return
        document = json.loads(reply.document)
        if "reply_to" not in document:
            return
        if reply.output is not None and document["output"] is None:
            topic = self._topics_of(outgoing.origin).error(document["task"])
            yield json_publication(topic, reply.document, correlation=reply.correlation)
        if "please_check" in document:
            yield json_publication(self._topics.audit(document["task"]), reply.document)

    def _topics_of(self, origin: Origin) -> TaskTopics:
        return origin.topics if isinstance(origin, SharedRequest) else self._topics

    def _on_result(self, outgoing: _Outgoing, result: PublishResult, now: float) -> None:
        outgoing.tries += 1
        if result is PublishResult.CONFIRMED:
            outgoing.origin.settle()
        elif result is PublishResult.POSTPONED and outgoing.tries < MAX_TRIES:
            self._postponed.append((now + RETRY_S, outgoing))
        else:
            self._send_fallback(outgoing, is_too_large=result is PublishResult.UNSENDABLE)

    def _send_fallback(self, outgoing: _Outgoing, *, is_too_large: bool) -> None:
        """Sends a short failure instead of a reply that is too large; any other goes to the topic of its task."""
        reply, origin, document = outgoing.reply, outgoing.origin, json.loads(outgoing.reply.document)
        topics = self._topics_of(origin)
        task = document["task"]
        # One with an error is short already.
        if is_too_large and document["error"] is None:
            self.stage_reply(_failure_instead_of(reply, document, topics), origin=origin, task=task, key=None)
        elif reply.topic != topics.response(task):
            elsewhere = replace(reply, topic=topics.response(task), retain=False)
            self.stage_reply(elsewhere, origin=origin, task=task, key=None)
        else:
            self.lost += 1
            log.error("reply lost task=%r: the broker accepts it on no topic", cut(task))
            origin.settle()

    def _acknowledge(self, generation: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= generation:
            _, received = self._unacknowledged.popleft()
            received.link.acknowledge(received)

    def on_synced(self, event: Synced) -> None:
        """Acknowledges what an fsync has brought to the disk. After a fault, all is acknowledged from memory."""
        self.store.on_synced(event)
        self._acknowledge(event.generation)

    def stop(self, timeout_s: float) -> None:
        """Flushes, waits for the disk, and acknowledges what is on it."""
        self.flush(time.monotonic())
        generation = self.store.stop(timeout_s)
        self._acknowledge(self._generation if generation is None else generation)

    def close(self) -> None:
        """Writes the last confirmations, after the connection has stopped."""
        self._confirm_by = 0.0
        self.flush(time.monotonic())
        self.store.close()


def _failure_instead_of(reply: Reply, document: dict[str, Any], topics: TaskTopics) -> Reply:
    """A short reply that says that this one is too large for the broker."""
    size = len(_publication(reply).payload)
    message = f"the reply of {size} bytes cannot be sent: the broker accepts no message of this size"
    document |= {"status": Status.FAILED.value, "degraded": []}
    for name in ("input", "topic", "please_check"):
        document.pop(name, None)
    document |= dict.fromkeys(("output", "scores", "finish", "reasoning", "model", "usage"))
    document["error"] = {"code": Code.INTERNAL.value, "message": message, "retry_after_s": None}
    topic = reply.topic
    if reply.output is not None:
        document["reply_to"], topic = topic, topics.error(document["task"])
    return Reply(topic=topic, document=encode(document), correlation=reply.correlation)


def _publication(reply: Reply) -> Publication:
    payload = reply.document if reply.output is None else reply.output
    return Publication(
        topic=reply.topic,
        payload=payload,
        retain=reply.retain,
        correlation=reply.correlation,
        content_type=reply.content_type,
    )
