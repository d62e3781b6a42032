"""The waiting requests: the most urgent priority first, the earliest deadline first within it."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from operator import attrgetter

from edge_agent.requests.request import Request

_PLACE = attrgetter("place")


class RequestQueue:
    """`waiting` holds the requests in the order in which they start. At most `capacity`: admission looks after it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.waiting: list[Request] = []

    def add(self, request: Request) -> None:
        """Lets a request wait. One that a lost worker gives back may exceed the capacity."""
        bisect.insort(self.waiting, request, key=_PLACE)

    def take(self, *, first_attempts_only: bool) -> Request | None:
        """The next request to run. first_attempts_only: None if it ran before, when a worker died: it runs alone."""
        if not self.waiting or (first_attempts_only and self.waiting[0].attempts):
            return None
        return self.waiting.pop(0)

    def expire(self, now: float) -> list[Request]:
        """Takes out the requests past their deadline, in their order."""
        return self.remove_where(lambda request: request.deadline_at <= now)

    def remove(self, request: Request) -> None:
        """Takes out a request that waits."""
        self.waiting.remove(request)

    def latest(self, source: str | None) -> Request | None:
        """The waiting request that a newer one of this source supersedes."""
        if source is None:
            return None
        return next((request for request in self.waiting if request.source == source), None)

    def remove_where(self, is_unwanted: Callable[[Request], bool]) -> list[Request]:
        """Takes out every waiting request for which this is true, in their order."""
        removed = [request for request in self.waiting if is_unwanted(request)]
        if removed:
            self.waiting = [request for request in self.waiting if not is_unwanted(request)]
        return removed

    def next_deadline_at(self) -> float | None:
        return min((request.deadline_at for request in self.waiting), default=None)

    def oldest_ms(self, now: float) -> float | None:
        """How long the longest waiting request has waited; None while none waits."""
        oldest = min((request.arrived_at for request in self.waiting), default=None)
        return None if oldest is None else (now - oldest) * 1000
