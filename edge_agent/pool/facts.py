"""What a board knows of its pool, for health, alarms and the tools. Nothing here needs pika."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """waiting, dead: requests. places: how many requests all boards of the pool run at once."""

    waiting: int
    places: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What health reports of the pool. connected_s, queue: None while there is no connection.

    places: how many requests of the pool this board takes at once. Totals count since the agent's start: requests that
    it took, gave back, and of those it took, what was delivered before. per_minute: requests that it took within the
    last minute. waited_ms: how long the last one of them waited at the broker; None = the broker stamps no arrivals, or
    there was none.
    """

    name: str
    connected_s: float | None
    places: int
    queue: QueueFigures | None
    claimed_total: int
    given_back_total: int
    repeated_total: int
    per_minute: int
    waited_ms: float | None

    def as_health(self) -> dict[str, Any]:
        """`waiting`, `places_of_all` and `dead_letters` are of the whole pool, the rest is this board's."""
        own, queue = asdict(self), self.queue
        del own["queue"]
        return {
            **own,
            "waiting": queue and queue.waiting,
            "places_of_all": queue and queue.places,
            "dead_letters": queue and queue.dead,
        }
