"""What a board knows of its pool, for health, alarms and the tools. Nothing here needs pika."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_agent.status.alarms import UNKNOWN, Finding, Severity

# Requests in the pool's queue for each that its boards run at once.
BACKLOG_PER_PLACE = 5


@dataclass(frozen=True, slots=True)
class QueueFigures:
    waiting: int
    """Requests that no board has taken yet."""
    places: int
    """How many requests all boards of the pool run at once."""
    dead: int
    """Requests that no board is given any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """Totals count from the agent's start. A figure is None where it is unknown."""

    name: str
    connected_s: float | None
    places: int
    """How many requests of the pool this board takes at once."""
    claimed_total: int
    given_back_total: int
    repeated_total: int
    """Of the claimed requests, those that were delivered before."""
    per_minute: int
    """Requests that the board claimed within the last minute."""
    waited_ms: float | None
    """How long the last one of them waited at the broker, which may stamp no arrivals."""
    queue: QueueFigures | None

    def as_health(self) -> dict[str, Any]:
        """`waiting`, `places_of_all` and `dead_letters` are of the whole pool; the rest are this board's."""
        document = asdict(self)
        del document["queue"]
        return document | {
            "waiting": self.queue and self.queue.waiting,
            "places_of_all": self.queue and self.queue.places,
            "dead_letters": self.queue and self.queue.dead,
        }

    def findings(self) -> Mapping[str, Finding | None]:
        return {"pool-unreachable": self._unreachable(), "pool-backlog": self._backlog()}

    def _unreachable(self) -> Finding | None:
        if self.connected_s is not None:
            return None
        message = f"the board has no connection to the queue of pool {self.name}: run `edge-agent doctor`"
        return Finding(Severity.WARNING, message)

    def _backlog(self) -> Finding | None:
        if self.queue is None:
            return UNKNOWN
        waiting, places = self.queue.waiting, self.queue.places
        if waiting <= BACKLOG_PER_PLACE * places:
            return None
        message = (
            f"{waiting} requests wait in the pool's queue, for {places} places on all boards: "
            "add a board, or send fewer requests"
        )
        return Finding(Severity.WARNING, message, waiting)
