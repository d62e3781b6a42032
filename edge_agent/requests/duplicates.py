"""Recognizes a client's retries and the broker's redeliveries, and keeps replies for a while to repeat them."""

import json
import logging
from dataclasses import dataclass

from edge_agent.core.clock import Moment
from edge_agent.core.codes import Status
from edge_agent.requests.request import Request
from edge_agent.store.store import Store

log = logging.getLogger(__name__)

# The oldest replies are forgotten first.
MAX_REPLIES = 5000
MAX_BYTES = 8 * 1024 * 1024
_ENTRY_BYTES = 500


@dataclass(frozen=True, slots=True)
class _Ended:
    at: float
    status: Status
    row: int | None
    reply: bytes | None  # None where the store has it in this row.
    size: int


class Duplicates:
    """The requests that wait or run, and the replies of the last `window_s` seconds, by their keys."""

    def __init__(self, window_s: float, store: Store) -> None:
        self._window_s = window_s
        self._store = store
        self._open: dict[bytes, Request] = {}
        self._ended: dict[bytes, _Ended] = {}  # In order of their ends.
        self._bytes = 0

    def restore(self, now: Moment) -> None:
        """Takes over the replies that earlier processes stored."""
        for stored in self._store.repeatable():
            try:
                status = Status(json.loads(stored.reply)["status"])
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                log.error("a stored reply cannot be read row=%s: %s", stored.row, error)  # noqa: TRY400
                self._store.end_repetition(stored.row)
            else:
                self._keep(stored.key, _Ended(stored.ended.on_clock_of(now), status, stored.row, None, stored.nbytes))
        self._forget_old(now.monotonic_s)

    def find(self, request: Request, now: float) -> Request | bytes | None:
        """The open request, or the reply, that answers this one too; None if this one has to run.

        `ok` and `invalid` answer every equal request; any other end answers only a redelivery of the same message.
        """
        self._forget_old(now)
        if not request.may_be_duplicate:
            return None
        if (original := self._open.get(request.key)) is not None:
            return original
        ended = self._ended.get(request.key)
        if ended is None or not (request.is_redelivery or ended.status in {Status.OK, Status.INVALID}):
            return None
        return ended.reply if ended.row is None else self._store.recall(ended.row)

    def begin(self, request: Request) -> None:
        """Notes that the request waits or runs from now on."""
        self._forget(request.key)
        self._open[request.key] = request

    def end(self, request: Request, status: Status, reply: bytes, now: float) -> bool:
        """Remembers the reply, in memory only where the request has no row. Returns whether it will be repeated."""
        if self._open.get(request.key, request) is not request:
            return False  # An equal request waits or runs, and its reply is the one to repeat.
        self._open.pop(request.key, None)
        self._forget(request.key)
        size = len(reply) + len(request.correlation or b"") + _ENTRY_BYTES
        if not self._window_s or size > MAX_BYTES:
            return False
        row = request.origin.row
        self._keep(request.key, _Ended(now, status, row, reply if row is None else None, size))
        return True

    def forget_open(self, request: Request) -> None:
        """Forgets a request that no longer waits or runs here, and has no reply."""
        if self._open.get(request.key) is request:
            del self._open[request.key]

    def reconfigure(self, window_s: float) -> None:
        self._window_s = window_s

    def forget_refusals(self) -> None:
        """Drops `invalid` replies, because the requests may be valid now."""
        for key in [key for key, ended in self._ended.items() if ended.status is Status.INVALID]:
            self._forget(key)

    def _keep(self, key: bytes, ended: _Ended) -> None:
        self._forget(key)
        self._ended[key] = ended
        self._bytes += ended.size
        while len(self._ended) > MAX_REPLIES or self._bytes > MAX_BYTES:
            self._forget(next(iter(self._ended)))

    def _forget_old(self, now: float) -> None:
        while self._ended:
            key, oldest = next(iter(self._ended.items()))
            if oldest.at > now - self._window_s:
                return
            self._forget(key)

    def _forget(self, key: bytes) -> None:
        ended = self._ended.pop(key, None)
        if ended is not None:
            self._bytes -= ended.size
            if ended.row is not None:
                self._store.end_repetition(ended.row)
