"""PURE. Which requests are one and the same: a client's retry, or the broker's redelivery."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from edge_agent.messages import Origin, Outcome, Status
from edge_agent.mqtt_link import Inbound
from edge_agent.request_queue import Request

MAX_REMEMBERED = 4096
MAX_REMEMBERED_BYTES = 8 * 1024 * 1024

Key = tuple[str, str, str, bytes]


def key_of(origin: Origin, inbound: Inbound) -> Key:
    """What makes two requests one: task, reply topic, the client's correlation, payload (and how it is to be read).

    Without a correlation of the client's, equal payloads are equal readings, not one question: only the broker's packet
    id, which a redelivery keeps, makes them one.
    """
    correlation = f"{origin.id!r}" if origin.is_id_given else ""
    if origin.correlation:
        correlation += f" {origin.correlation.hex()}"
    digest = hashlib.sha256(f"{inbound.content_type}\n".encode("utf-8", "surrogatepass") + inbound.payload).digest()
    return (origin.task, origin.reply_topic, correlation or f"packet {inbound.packet_id}", digest)


def may_be_duplicate(origin: Origin, inbound: Inbound) -> bool:
    """Whether an equal request before this one may be the same one."""
    return origin.is_id_given or bool(origin.correlation) or inbound.duplicate


@dataclass(frozen=True, slots=True)
class _Ended:
    at: float
    outcome: Outcome
    size: int


class Duplicates:
    """What is asked, and what was answered within the window: bounded in number and bytes, the oldest are forgotten
    first."""

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._asked: dict[Key, Request] = {}
        self._ended: OrderedDict[Key, _Ended] = OrderedDict()
        self._bytes = 0

    def find(self, key: Key, now: float) -> Request | Outcome | None:
        """The running request or the recorded outcome that answers this one too; None = it is to be run."""
        self._forget_old(now)
        if key in self._asked:
            return self._asked[key]
        return self._ended[key].outcome if key in self._ended else None

    def begin(self, key: Key, request: Request) -> None:
        """This request is waiting or running."""
        self._drop(key)
        self._asked[key] = request

    def end(self, key: Key, outcome: Outcome, now: float) -> None:
        """`ok` and `invalid` are kept to be given again; after any other end the question may be asked anew."""
        self._drop(key)
        if outcome.status in (Status.OK, Status.INVALID):
            size = len(str(outcome.output)) + len(outcome.reasoning or "") + 512
            self._ended[key] = _Ended(now, outcome, size)
            self._bytes += size
        self._forget_old(now)

    def forget_refusals(self) -> None:
        """What was invalid may be valid under a new configuration."""
        for key in [key for key, ended in self._ended.items() if ended.outcome.status is Status.INVALID]:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._asked.pop(key, None)
        ended = self._ended.pop(key, None)
        if ended is not None:
            self._bytes -= ended.size

    def _forget_old(self, now: float) -> None:
        while self._ended:
            key, oldest = next(iter(self._ended.items()))
            is_over = len(self._ended) > MAX_REMEMBERED or self._bytes > MAX_REMEMBERED_BYTES
            if not is_over and oldest.at + self.window_s > now:
                return
            self._drop(key)
