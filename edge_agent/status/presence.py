"""The `state` topic, where its birth message and its last will say whether the board answers."""

import secrets
from enum import StrEnum

from edge_agent import __version__
from edge_agent.core.clock import timestamp
from edge_agent.core.messages import Publication, json_publication
from edge_agent.core.strict_json import parse_json
from edge_agent.core.topics import Topics

STARTING = "starting"


class State(StrEnum):
    ONLINE = "online"
    DRAINING = "draining"
    STOPPED = "stopped"
    OFFLINE = "offline"


class Presence:
    """Each connection has its own session, the same in its will and its birth. So a watcher can tell the will of a dead
    connection from the state of the living one.

    The network thread calls `begin_session_with_will` before each attempt to connect; the agent's thread calls the
    rest.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        # The suffix of every session id of this process.
        self._process = secrets.token_hex(4)
        # The session's id, and when it began; None if the clock was unset then.
        self._session: tuple[str, str | None] = ("", None)
        self.state = State.OFFLINE
        self.reason: str | None = STARTING

    @property
    def is_starting(self) -> bool:
        """Whether the model is being loaded for the first time."""
        return (self.state, self.reason) == (State.OFFLINE, STARTING)

    @property
    def session(self) -> str:
        return self._session[0]

    def foreign_session(self, payload: bytes) -> str | None:
        """The session in a message on our state topic, if another process sent it."""
        try:
            document = parse_json(payload.decode("utf-8"))
        except ValueError:
            return None
        session = document.get("session") if isinstance(document, dict) else None
        return session if isinstance(session, str) and not session.endswith(self._process) else None

    def begin_session_with_will(self) -> Publication:
        """The last will of the next connection, which begins its session."""
        self._session = (secrets.token_hex(4) + self._process, timestamp())
        return self._publication(State.OFFLINE, "connection-lost")

    def birth(self) -> Publication:
        """The state now."""
        return self._publication(self.state, self.reason)

    def _publication(self, state: State, reason: str | None) -> Publication:
        session, connected_at = self._session
        document = {
            "state": state.value,
            "session": session,
            "connected_at": connected_at,
            "reason": reason,
            "version": __version__,
        }
        return json_publication(self._topics.state, document, retain=True)
