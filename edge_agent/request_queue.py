"""PURE. The bounded queue of waiting requests: most urgent priority first, earliest deadline first within it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.engine.protocol import Run
from edge_agent.messages import Origin


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One admitted request. Times are seconds of the monotonic clock.

    run: what the worker is asked, complete but for nothing. attempts: how often it was handed to a worker.
    supersedes: requests with the same key are made void by a newer one (`keep = "latest"`), None = never.
    """

    number: int
    origin: Origin
    run: Run
    arrived_at: float
    deadline_at: float
    priority: int
    include_reasoning: bool = False
    min_score: float = 0.0
    supersedes: tuple[str, str] | None = None
    started_at: float | None = None
    attempts: int = 0
    partials: int = 0
    # Further askers of the same question (see duplicates.py): each gets a reply of its own.
    followers: list[Origin] = field(default_factory=list)


class RequestQueue:
    """At most `capacity` waiting requests. Every call takes `now`; nothing here knows the time."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._heap: list[tuple[int, float, int, Request]] = []
        self._waiting: dict[int, Request] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self.capacity

    def add(self, request: Request) -> None:
        """Lets a request wait. The caller has seen that there is room; one put back after a crash may exceed it."""
        self._waiting[request.number] = request
        heapq.heappush(self._heap, (request.priority, request.deadline_at, request.number, request))

    def has(self, source: tuple[str, str]) -> bool:
        """Whether a request waits that makes older ones of this source void."""
        return any(request.supersedes == source for request in self._waiting.values())

    def take(self) -> Request | None:
        """The next request to run, or None."""
        while self._heap:
            request = heapq.heappop(self._heap)[3]
            if self._waiting.pop(request.number, None) is not None:
                return request
        return None

    def remove(self, is_unwanted: Callable[[Request], bool]) -> list[Request]:
        """Takes out every waiting request for which this is true, in order of arrival."""
        removed = [request for request in self._waiting.values() if is_unwanted(request)]
        for request in removed:
            del self._waiting[request.number]
        if len(self._heap) > 2 * len(self._waiting) + 16:  # forget the entries of those that are gone
            self._heap = [entry for entry in self._heap if entry[3].number in self._waiting]
            heapq.heapify(self._heap)
        return removed

    def expire(self, now: float) -> list[Request]:
        """Takes out the requests whose deadline has passed."""
        return self.remove(lambda request: request.deadline_at <= now)

    def next_deadline_at(self) -> float | None:
        return min((request.deadline_at for request in self._waiting.values()), default=None)

    def oldest_ms(self, now: float) -> float | None:
        """How long the longest waiting request has waited; None while none waits."""
        oldest = min((request.arrived_at for request in self._waiting.values()), default=None)
        return None if oldest is None else (now - oldest) * 1000
