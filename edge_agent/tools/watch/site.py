"""PURE. All boards of a site: messages in, rows out."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.core.topics import Topics, wildcard_values
from edge_agent.tools.watch.arrival import Arrival, Now
from edge_agent.tools.watch.board import SETTLE_S, Board
from edge_agent.tools.watch.row import Row

# A site has fifty; whoever floods the bus with names shall not fill our memory.
MAX_BOARDS = 1000


class Site:
    """Feed it every message that falls under `filters`."""

    def __init__(self, root: str, site: str) -> None:
        self.name = site
        self.is_full = False
        every = Topics(root, site, "+")
        self._takers: tuple[tuple[str, Callable[..., None]], ...] = (
            (every.state, Board.take_state),
            (every.health, Board.take_health),
            (every.info, Board.take_info),
            (every.alarm("+"), Board.take_alarm),
        )
        self._boards: dict[str, Board] = {}
        self._connection = 0
        self._forget_at: float | None = None

    @property
    def filters(self) -> tuple[str, ...]:
        return tuple(topic_filter for topic_filter, _take in self._takers)

    def connected(self, now: Now) -> None:
        """The subscriptions are new: the broker tells again what it has retained."""
        self._connection += 1
        self._forget_at = now.at + SETTLE_S

    def take(self, topic: str, payload: bytes, now: Now, *, is_live: bool, expiry_s: int | None) -> None:
        arrival = Arrival(payload=payload, now=now, connection=self._connection, is_live=is_live, expiry_s=expiry_s)
        for topic_filter, take in self._takers:
            if values := wildcard_values(topic_filter, topic):
                board = self._board(values[0], arrival)
                if board is not None:
                    take(board, arrival, *values[1:])

    def rows(self, now: Now) -> list[Row]:
        """Worst first, then by name."""
        if self._forget_at is not None and now.at >= self._forget_at:
            self._forget_at = None
            for board in self._boards.values():
                board.forget_before(self._connection)
        self._boards = {device: board for device, board in self._boards.items() if not board.is_gone(now)}
        return sorted((board.row(now) for board in self._boards.values()), key=lambda row: (row.level, row.device))

    def is_settled(self, now: Now) -> bool:
        """True if there are boards, and none of them has more to tell before it speaks again."""
        return bool(self._boards) and all(board.is_settled(now) for board in self._boards.values())

    def _board(self, device: str, arrival: Arrival) -> Board | None:
        board = self._boards.get(device)
        if board is None and arrival.payload:
            if len(self._boards) >= MAX_BOARDS:
                self.is_full = True
                return None
            board = self._boards[device] = Board(device)
        return board
