"""PURE. Which requests are one and the same: a client's retry, or the broker's redelivery."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.core.inbound import Message
from edge_agent.core.messages import Origin, Outcome, Status
from edge_agent.requests.request_queue import Request

MAX_REMEMBERED = 4096
MAX_REMEMBERED_BYTES = 8 * 1024 * 1024
MAX_OTHER_ENDS = 1024

# A digest of what makes two requests one.
Key = bytes


def key_of(origin: Origin, inbound: Message) -> Key:
    """What makes two requests one: task, reply topic, the client's correlation, payload (and how it is to be read).

    Without a correlation of the client's, equal payloads are equal readings, not one question: only the broker's packet
    id, which a redelivery keeps, makes them one.
    """
    correlation = f"{origin.id!r}" if origin.is_id_given else ""
    if origin.correlation:
        correlation += f" {origin.correlation.hex()}"
    asked = (origin.task, origin.reply_topic, correlation or f"packet {inbound.packet_id}", inbound.content_type)
    return hashlib.sha256(f"{asked!r}\n".encode("utf-8", "surrogatepass") + inbound.payload).digest()


def may_be_duplicate(origin: Origin, inbound: Message) -> bool:
    """Whether an equal request before this one may be the same one."""
    return origin.is_id_given or bool(origin.correlation) or inbound.is_duplicate


@dataclass(frozen=True, slots=True)
class _Ended:
    """outcome: None = it is recorded in the row."""

    at: float
    status: Status
    outcome: Outcome | None
    row: int | None
    size: int


class _Outcomes:
    """Of the latest requests: bounded in number and bytes, the oldest are forgotten first."""

    def __init__(
        self,
        most: int,
        most_bytes: int,
        on_forget: Callable[[int | None], None],
        recall: Callable[[int], Outcome | None],
    ) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._on_forget, self._recall = on_forget, recall
        # In order of their ends. An OrderedDict finds the oldest faster, and takes a third more memory for thousands.
        self._ended: dict[Key, _Ended] = {}
        self._bytes = 0

    def get(self, key: Key) -> Outcome | None:
        ended = self._ended.get(key)
        if ended is None or ended.outcome is not None or ended.row is None:
            return None if ended is None else ended.outcome
        return self._recall(ended.row)

    def __contains__(self, key: Key) -> bool:
        return key in self._ended

    def keep(self, key: Key, outcome: Outcome, at: float, row: int | None, recorded_bytes: int) -> None:
        size = recorded_bytes or len(str(outcome.output)) + len(outcome.reasoning or "") + 512
        self._ended[key] = _Ended(at, outcome.status, None if recorded_bytes else outcome, row, size)
        self._bytes += size

    def drop(self, key: Key) -> None:
        ended = self._ended.pop(key, None)
        if ended is not None:
            self._bytes -= ended.size
            self._on_forget(ended.row)

    def of_status(self, status: Status) -> list[Key]:
        return [key for key, ended in self._ended.items() if ended.status is status]

    def drop_old(self, before: float) -> None:
        while self._ended:
            key, oldest = next(iter(self._ended.items()))
            is_over = len(self._ended) > self._most or self._bytes > self._most_bytes
            if not is_over and oldest.at > before:
                return
            self.drop(key)


class Duplicates:
    """What is asked, and how it ended within the window.

    terms: what requests are let in by; a refusal counts under the same ones only. on_forget: hears the row of an end
    that is not told again. recall: the outcome that is recorded in a row; None = it cannot be read any more.
    """

    def __init__(
        self,
        window_s: float,
        on_forget: Callable[[int | None], None] = lambda _: None,
        recall: Callable[[int], Outcome | None] = lambda _: None,
        *,
        terms: bytes = b"",
    ) -> None:
        self.window_s = window_s
        self.terms = terms
        self._asked: dict[Key, Request] = {}
        self._answers = _Outcomes(MAX_REMEMBERED, MAX_REMEMBERED_BYTES, on_forget, recall)
        # Apart from the answers, which a flood of refusals must not push out.
        self._other_ends = _Outcomes(MAX_OTHER_ENDS, MAX_REMEMBERED_BYTES, on_forget, recall)

    def find(self, key: Key, now: float, *, is_redelivered: bool = False) -> Request | Outcome | None:
        """The running request or the recorded outcome that answers this one too; None = it is to be run.

        `ok` and `invalid` answer whoever asks the same; any other end only the same message, which the broker brings
        again: its caller has been told.
        """
        self.forget_old(now)
        if key in self._asked:
            return self._asked[key]
        known = self._answers.get(key) or self._answers.get(self.known_as(key, Status.INVALID))
        return known or (self._other_ends.get(key) if is_redelivered else None)

    def known_as(self, key: Key, status: Status) -> Key:
        """By what an end of this status is kept."""
        return hashlib.sha256(self.terms + key).digest() if status is Status.INVALID else key

    def begin(self, key: Key, request: Request) -> None:
        """This request is waiting or running."""
        self._drop(key)
        self._asked[key] = request

    def end(self, key: Key, outcome: Outcome, now: float, row: int | None = None, recorded_bytes: int = 0) -> None:
        """How it ended, and its row. recorded_bytes: what can be recalled from there, and is not kept here."""
        self._drop(key)
        self.restore(self.known_as(key, outcome.status), outcome, now, row, recorded_bytes)
        self.forget_old(now)

    def knows(self, known_as: Key) -> bool:
        """Whether anything is kept, or asked, under exactly this."""
        return known_as in self._asked or known_as in self._answers or known_as in self._other_ends

    def restore(self, known_as: Key, outcome: Outcome, at: float, row: int | None, recorded_bytes: int) -> None:
        """An end of an earlier process: to be called in their order."""
        ends = self._answers if outcome.status in (Status.OK, Status.INVALID) else self._other_ends
        ends.keep(known_as, outcome, at, row, recorded_bytes)

    def forget_refusals(self) -> None:
        """What was invalid may be valid now."""
        for key in self._answers.of_status(Status.INVALID):
            self._drop(key)

    def forget_old(self, now: float) -> None:
        """To be called now and then, while nobody asks."""
        self._answers.drop_old(now - self.window_s)
        self._other_ends.drop_old(now - self.window_s)

    def _drop(self, key: Key) -> None:
        self._asked.pop(key, None)
        self._answers.drop(key)
        self._answers.drop(self.known_as(key, Status.INVALID))
        self._other_ends.drop(key)
