"""Who is told what: everyone who asks, once; who asks the same again, the same. Belongs to the agent's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import ValidationError

from edge_agent.core.clock import Moment
from edge_agent.core.envelope import logged
from edge_agent.core.errors import cut, first_fault
from edge_agent.core.inbound import Message
from edge_agent.core.messages import Code, Error, Outcome, Refusal, Status, Timing, decode_reply
from edge_agent.requests.delivery import Delivery
from edge_agent.requests.duplicates import Duplicates, Key, key_of, may_be_duplicate
from edge_agent.requests.replies import Replies
from edge_agent.requests.request_queue import Asker, Request
from edge_agent.requests.statistics import Statistics

log = logging.getLogger(__name__)

# Clients that may wait for one answer by asking the same question again.
MAX_FOLLOWERS = 100
# And what is kept of all of them, on the disk too: their questions, Correlation Data, and the id that is made of it.
MAX_FOLLOWERS_BYTES = 4 << 20
# What grows old meanwhile shares a write to the disk.
FORGET_EVERY_S = 60.0


class Answers:
    """Of the requests that were let in, by `begin` and `end`, and of those that were refused."""

    def __init__(
        self, device: str, window_s: float, delivery: Delivery, statistics: Statistics, terms: bytes = b""
    ) -> None:
        """terms: as of `Duplicates`."""
        self._delivery = delivery
        self._statistics = statistics
        self._replies = Replies(device, delivery)
        self._duplicates = Duplicates(window_s, delivery.forget, self._recall, terms=terms)
        self._forget_at = 0.0
        self._keys: dict[int, Key] = {}
        # Of those who joined a request, by its number.
        self._followers_bytes: dict[int, int] = {}

    def reconfigure(self, window_s: float, terms: bytes) -> None:
        self.forget_refusals()
        self._duplicates.window_s, self._duplicates.terms = window_s, terms

    def forget_refusals(self) -> None:
        """What was refused may be let in now."""
        self._duplicates.forget_refusals()

    def expire(self, now: float) -> None:
        """To be called now and then: what nobody repeats any more is not kept, on the disk neither."""
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_S
            self._duplicates.forget_old(now)

    def take_over(self, now: Moment) -> None:
        """Knows the answers of the process before this one."""
        for known in self._delivery.repeatable():
            outcome = _outcome_on_record(known.row, known.reply)
            # Where the record could not be read until now, it may have been asked again meanwhile.
            if outcome is None or self._duplicates.knows(known.key):
                self._delivery.forget(known.row)
            else:
                self._duplicates.restore(known.key, outcome, known.ended.placed(now), known.row, known.nbytes)

    def join(self, asker: Asker, inbound: Message, key: Key, now: float, retry_after_s: Callable[[], float]) -> bool:
        """Whether another request answers this one too: it waits for that, or is told at once. Raises Refusal."""
        if not may_be_duplicate(asker.origin, inbound):
            return False
        twin = self._duplicates.find(key, now, is_redelivered=inbound.is_duplicate)
        if twin is None:
            return False
        self._statistics.totals.duplicates_total += 1
        if not isinstance(twin, Request):
            self._replies.terminal(asker, twin, repeat=True)
            return True
        if inbound.is_duplicate:
            self._delivery.drop(asker.row)
            return True
        nbytes = asker.origin.nbytes + len(inbound.payload)
        others = sum(self._followers_bytes.values())
        # The first is let in whatever its size: a queue of as large requests is.
        if len(twin.followers) >= MAX_FOLLOWERS or (others and others + nbytes > MAX_FOLLOWERS_BYTES):
            raise Refusal(Code.QUEUE_FULL, "too many wait for this answer already", retry_after_s())
        twin.followers.append(asker)
        self._followers_bytes[twin.number] = self._followers_bytes.get(twin.number, 0) + nbytes
        return True

    def begin(self, request: Request, key: Key) -> None:
        """It is let in, and `end` follows."""
        self._keys[request.number] = key
        self._duplicates.begin(key, request)
        self._statistics.totals.accepted_total += 1

    def partial(self, request: Request, delta: str) -> None:
        self._replies.partial(request, delta)

    def end(self, request: Request, outcome: Outcome, now: float) -> None:
        """Tells its caller, and all who joined it."""
        origin, error = request.origin, outcome.error
        key = self._keys.pop(request.number)
        self._statistics.count(outcome)
        if error is not None:
            log.info(
                "request ended task=%r id=%r status=%s code=%s: %s",
                origin.task, origin.log_id, outcome.status.value, error.code.value, logged(error),
            )  # fmt: skip
        known_as = self._duplicates.known_as(key, outcome.status)
        recorded_bytes = self._replies.terminal(Asker(origin, request.row), outcome, key=known_as)
        self._followers_bytes.pop(request.number, None)
        for follower in request.followers:
            self._replies.terminal(follower, outcome, repeat=True)
        self._duplicates.end(key, outcome, now, request.row, recorded_bytes)

    def refuse(self, asker: Asker, inbound: Message, error: Error, now: float) -> None:
        """Of a request that is not let in."""
        origin = asker.origin
        log.info(
            "request refused task=%r id=%r code=%s: %s",
            cut(origin.task), origin.log_id, error.code.value, logged(error),
        )  # fmt: skip
        outcome = Outcome.refused(error, Timing(total_ms=(now - inbound.received_at) * 1000))
        key = key_of(origin, inbound)
        twin = self._duplicates.find(key, now)
        is_duplicate = outcome.status is Status.INVALID and may_be_duplicate(origin, inbound)
        if is_duplicate and isinstance(twin, Outcome):
            self._statistics.totals.duplicates_total += 1
            self._replies.terminal(asker, twin, repeat=True)
            return
        self._statistics.count(outcome)
        known_as = None if twin is not None else self._duplicates.known_as(key, outcome.status)
        recorded_bytes = self._replies.terminal(asker, outcome, key=known_as)
        if twin is None:
            self._duplicates.end(key, outcome, now, asker.row, recorded_bytes)

    def _recall(self, row: int) -> Outcome | None:
        reply = self._delivery.recall(row)
        return None if reply is None else _outcome_on_record(row, reply)


def _outcome_on_record(row: int, reply: bytes) -> Outcome | None:
    """None: it is damaged, or of a newer version; its request is run anew if it is asked again."""
    try:
        return decode_reply(reply)
    except ValidationError as error:
        log.error("an answer on record cannot be read number=%s: %s", row, first_fault(error))  # noqa: TRY400
        return None
