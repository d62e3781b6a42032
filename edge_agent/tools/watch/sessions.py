"""PURE. Which of a board's sessions lives: the will of a dead connection may come after the birth of the next one."""

from __future__ import annotations

from collections import deque

from edge_agent.tools.watch.arrival import Arrival, Heard, heard
from edge_agent.tools.watch.documents import Health, State

# So many new sessions within a minute are more than a network's hiccup.
FLAPPING_SESSIONS = 3
FLAPPING_S = 60.0


class Sessions:
    """The `state` that counts."""

    def __init__(self) -> None:
        self.state: Heard[State] | None = None
        self._outlived: deque[str] = deque(maxlen=64)
        self._began: deque[float] = deque(maxlen=FLAPPING_SESSIONS)

    def take(self, state: State, arrival: Arrival) -> None:
        current = self.state.document if self.state else None
        if current is not None and state.session != current.session:
            if self._is_old(state, current):
                return
            if current.session is not None:
                self._outlived.append(current.session)
            if arrival.is_live:
                self._began.append(arrival.now.at)
        self.state = heard(state, arrival)

    def _is_old(self, state: State, current: State) -> bool:
        if not _is_will(state):
            return False
        if state.session in self._outlived:
            return True
        if state.connected_at is None or current.connected_at is None:
            return False
        return state.connected_at < current.connected_at

    def is_contradicted_by(self, health: Heard[Health]) -> bool:
        """True if `state` holds the will of a session, and the board has spoken in a later one since."""
        if self.state is None or not _is_will(self.state.document):
            return False
        will, said = self.state.document, health.document
        if said.session is None or said.session == will.session or said.session in self._outlived:
            return False
        if said.ts is not None and will.connected_at is not None:
            return said.ts > will.connected_at  # both times are the board's own
        return health.is_live and health.at > self.state.at

    def is_flapping(self, at: float) -> bool:
        return len(self._began) == FLAPPING_SESSIONS and at - self._began[0] <= FLAPPING_S


def _is_will(state: State) -> bool:
    return state.name == "offline" and state.reason == "connection-lost"
