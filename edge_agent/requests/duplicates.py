"""Which requests are the same: a retry of a client, or a redelivery of the broker. Replies are kept for a while."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.core.messages import Status
from edge_agent.requests.request import Request
from edge_agent.store.store import Store

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

    def __init__(self, limit: int, store: Store) -> None:
        self._limit = limit
        self._store = store
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
            if ended.row is not None:
                self._store.forget(ended.row)

    def drop_old(self, before: float) -> None:
        while self.by_key:
            key, oldest = next(iter(self.by_key.items()))
            if oldest.at > before:
                return
            self.drop(key)


class Duplicates:
    """The requests that wait or run, and the replies of the last `window_s` seconds, by their keys."""

    def __init__(self, window_s: float, store: Store) -> None:
        self._window_s = window_s
        self._store = store
        self._open: dict[bytes, Request] = {}
        self._answers = _Replies(MAX_ANSWERS, store)
        # Apart from the answers, which a flood of refusals must not push out.
        self._other_ends = _Replies(MAX_OTHER_ENDS, store)

    def find(self, request: Request, now: float) -> Request | bytes | None:
        """The open request, or the reply, that answers this one too; None = it has to run.

        `ok` and `invalid` answer every equal request; any other end answers only a redelivery of the same message.
        """
        self.forget_old(now)
        if not request.may_be_duplicate:
            return None
        if (twin := self._open.get(request.key)) is not None:
            return twin
        ended = self._answers.by_key.get(request.key)
        if ended is None and request.is_redelivery:
            ended = self._other_ends.by_key.get(request.key)
        if ended is None:
            return None
        return self._store.recall(ended.row) if ended.reply is None and ended.row is not None else ended.reply

    def begin(self, request: Request) -> None:
        """The request waits or runs from now on."""
        self._drop(request.key)
        self._open[request.key] = request

    def end(self, request: Request, status: Status, reply: bytes, now: float) -> bool:
        """Remembers the reply, in memory only where the request has no row. False: it is not repeated."""
        self._drop(request.key)
        size = len(reply) + len(request.correlation or b"") + _ENTRY_BYTES
        kept = reply if request.row is None else None
        return bool(self._window_s) and self._keep(request.key, _Ended(now, status, request.row, kept, size))

    def restore(self, key: bytes, status: Status, at: float, row: int, size: int) -> bool:
        """A stored reply of an earlier process, in order of their ends. False: it is not repeated."""
        if key in self._open or key in self._answers.by_key or key in self._other_ends.by_key:
            return False
        return self._keep(key, _Ended(at, status, row, None, size))

    def _keep(self, key: bytes, ended: _Ended) -> bool:
        replies = self._answers if ended.status in {Status.OK, Status.INVALID} else self._other_ends
        return replies.keep(key, ended)

    def reconfigure(self, window_s: float) -> None:
        self._window_s = window_s

    def forget_refusals(self) -> None:
        """Drops `invalid` replies: the requests may be valid now."""
        for key in [key for key, ended in self._answers.by_key.items() if ended.status is Status.INVALID]:
            self._answers.drop(key)

    def forget_old(self, now: float) -> None:
        self._answers.drop_old(now - self._window_s)
        self._other_ends.drop_old(now - self._window_s)

    def _drop(self, key: bytes) -> None:
        self._open.pop(key, None)
        self._answers.drop(key)
        self._other_ends.drop(key)
