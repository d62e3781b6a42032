"""Which requests are the same: a retry of a client, or a redelivery of the broker. Replies are kept for a while."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.core.messages import Status
from edge_agent.requests.request import Request

MAX_ANSWERS = 4096
MAX_OTHER_ENDS = 1024
MAX_BYTES = 8 * 1024 * 1024
_ENTRY_BYTES = 500


@dataclass(frozen=True, slots=True)
class _Ended:
    """reply: None = it is in the store, under the row."""

    at: float
    status: Status
    row: int | None
    reply: bytes | None
    size: int


class _Replies:
    """The replies of the latest requests, bounded in number and bytes: the oldest are forgotten first."""

    def __init__(self, limit: int, on_forget: Callable[[int | None], None]) -> None:
        self._limit = limit
        self._on_forget = on_forget
        # In order of their ends.
        self.by_key: dict[bytes, _Ended] = {}
        self._bytes = 0

    def keep(self, key: bytes, ended: _Ended) -> bool:
        """Makes room for the reply and keeps it. False: it is too large."""
        if ended.size > MAX_BYTES:
            return False
        while len(self.by_key) >= self._limit or self._bytes + ended.size > MAX_BYTES:
            self.drop(next(iter(self.by_key)))
        self.by_key[key] = ended
        self._bytes += ended.size
        return True

    def drop(self, key: bytes) -> None:
        ended = self.by_key.pop(key, None)
        if ended is not None:
            self._bytes -= ended.size
            self._on_forget(ended.row)

    def drop_old(self, before: float) -> None:
        while self.by_key:
            key, oldest = next(iter(self.by_key.items()))
            if oldest.at > before:
                return
            self.drop(key)


class Duplicates:
    """The requests that wait or run, and the replies of the last `window_s` seconds, by their keys.

    configuration: its digest; an `invalid` reply is repeated under the same configuration only.
    on_forget: called with the row of a reply that is not repeated any more.
    recall: reads the reply in a row of the store; None = it cannot be read.
    """

    def __init__(
        self,
        window_s: float,
        configuration: bytes,
        on_forget: Callable[[int | None], None],
        recall: Callable[[int], bytes | None],
    ) -> None:
        self._window_s = window_s
        self._configuration = configuration
        self._recall = recall
        self._open: dict[bytes, Request] = {}
        self._answers = _Replies(MAX_ANSWERS, on_forget)
        # Apart from the answers, which a flood of refusals must not push out.
        self._other_ends = _Replies(MAX_OTHER_ENDS, on_forget)

    def find(self, request: Request, now: float) -> Request | bytes | None:
        """The open request, or the reply, that answers this one too; None = it has to run.

        `ok` and `invalid` answer every equal request; any other end answers only a redelivery of the same message.
        """
        self.forget_old(now)
        if not request.may_be_duplicate:
            return None
        if (twin := self._open.get(request.key)) is not None:
            return twin
        answers = self._answers.by_key
        ended = answers.get(request.key) or answers.get(self.stored_key(request, Status.INVALID))
        if ended is None and request.is_redelivery:
            ended = self._other_ends.by_key.get(request.key)
        if ended is None:
            return None
        return self._recall(ended.row) if ended.reply is None and ended.row is not None else ended.reply

    def begin(self, request: Request) -> None:
        """The request waits or runs from now on."""
        self._drop(request)
        self._open[request.key] = request

    def end(self, request: Request, status: Status, reply: bytes, now: float) -> bytes | None:
        """Remembers the reply, in memory only where the request has no row.

        Returns the key to store it under; None = it is not repeated.
        """
        self._drop(request)
        size = len(reply) + len(request.correlation or b"") + _ENTRY_BYTES
        kept = reply if request.row is None else None
        if not self._window_s:
            return None
        key = self.stored_key(request, status)
        return key if self._replies_of(status).keep(key, _Ended(now, status, request.row, kept, size)) else None

    def stored_key(self, request: Request, status: Status) -> bytes:
        """The key that a reply with this status is kept and stored under."""
        if status is not Status.INVALID:
            return request.key
        return hashlib.sha256(self._configuration + request.key).digest()

    def restore(self, key: bytes, status: Status, at: float, row: int, size: int) -> bool:
        """A stored reply of an earlier process, in order of their ends. False: it is not repeated."""
        if key in self._open or key in self._answers.by_key or key in self._other_ends.by_key:
            return False
        return self._replies_of(status).keep(key, _Ended(at, status, row, None, size))

    def _replies_of(self, status: Status) -> _Replies:
        return self._answers if status in {Status.OK, Status.INVALID} else self._other_ends

    def reconfigure(self, window_s: float, configuration: bytes) -> None:
        self._window_s, self._configuration = window_s, configuration
        self.forget_refusals()

    def forget_refusals(self) -> None:
        """Drops `invalid` replies: the requests may be valid now."""
        invalid = [key for key, ended in self._answers.by_key.items() if ended.status is Status.INVALID]
        for key in invalid:
            self._answers.drop(key)

    def forget_old(self, now: float) -> None:
        self._answers.drop_old(now - self._window_s)
        self._other_ends.drop_old(now - self._window_s)

    def _drop(self, request: Request) -> None:
        self._open.pop(request.key, None)
        self._answers.drop(request.key)
        self._answers.drop(self.stored_key(request, Status.INVALID))
        self._other_ends.drop(request.key)
