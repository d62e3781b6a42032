"""Which requests may wait. A refusal says why, and when to come back."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from operator import attrgetter

from edge_agent.board.limits import RELAX_S, Limits
from edge_agent.core.config import Config
from edge_agent.core.messages import Code, Error, Refusal
from edge_agent.requests.forecast import Backlog, Forecast
from edge_agent.requests.queue import RequestQueue
from edge_agent.requests.rate_limit import RateLimiter
from edge_agent.requests.request import Request

SHORTEST_RETRY_S = 0.1
# Where no request has been measured yet.
UNKNOWN_RETRY_S = 1.0
# A drain ends by a command or a restart, at a time that the agent does not know.
DRAINING_RETRY_S = 10.0

SUPERSEDED = Error(code=Code.SUPERSEDED, message="a newer reading of the same source has come")


class Admission:
    """Lets requests into the queue.

    A more urgent request starts before a less urgent one, and takes its place in a full queue: less urgent priorities
    may starve. Within a priority the earliest deadline starts first. A newcomer is refused if it would be late by the
    forecast, or would make an admitted request of its priority late.
    """

    def __init__(self, config: Config, queue: RequestQueue, forecast: Forecast) -> None:
        self._config = config
        self._queue = queue
        self._forecast = forecast
        self._rates = RateLimiter()

    def reconfigure(self, config: Config) -> None:
        self._config = config
        self._queue.capacity = config.queue.capacity

    def check(self, request: Request, now: float, limits: Limits, *, is_draining: bool) -> None:
        """What can be said before the template is rendered, which may take half a second. Raises Refusal."""
        if request.deadline_at <= now:
            raise Refusal(Code.DEADLINE, f"{request.deadline} had passed on arrival")
        if is_draining:
            raise Refusal(Code.DRAINING, "the agent is draining and takes no new requests", DRAINING_RETRY_S)
        if limits.causes and (cause := limits.refusal(request.priority)) is not None:
            message = f"priority {request.priority} is not urgent enough while {limits.reason}"
            raise Refusal(Code(cause.value), message, RELAX_S)
        assert request.task is not None
        for subject, name, per_minute in (
            ("reply topic", request.reply_topic, self._config.queue.rate_per_minute),
            (f"task {request.task_name}", "", request.task.config.rate_per_minute),
        ):
            if per_minute is not None:
                self._rates.take(subject, name, per_minute, now)

    def admit(
        self, newcomer: Request, running: Backlog, now: float, loading_s: float | None
    ) -> list[tuple[Request, Error]]:
        """Puts a newcomer into the queue. Returns the requests that left the queue for it, and why.

        running: what the engine does now. loading_s: how long until there is an engine; None = unknown, or it is there.
        Raises Refusal(queue_full, loading, deadline_unreachable); then the queue is as before.
        """
        older = self._queue.latest(newcomer.source) if newcomer.source is not None else None
        if older is not None:
            # In its place: readings that come faster than answers would supersede each other forever.
            newcomer.place = min(newcomer.place, older.place)
        waiting = [request for request in self._queue.waiting if request is not older]
        last = waiting[-1] if len(waiting) >= self._queue.capacity else None
        if last is not None and last.priority <= newcomer.priority:
            code, why = (Code.QUEUE_FULL, "") if running.slots else (Code.LOADING, " while the model is being loaded")
            message = f"all {self._queue.capacity} places of the queue are taken{why}"
            raise Refusal(code, message, self._retry_after_s(running, loading_s))
        if running.slots:
            self._check_deadline(newcomer, waiting, running, now)
        elif loading_s is not None and now + loading_s > newcomer.deadline_at:
            message = f"the model is being loaded, for about {loading_s:.1f} s more, too late for {newcomer.deadline}"
            raise Refusal(Code.LOADING, message, self._retry_after_s(running, loading_s))
        leaving: list[tuple[Request, Error]] = []
        if older is not None:
            leaving.append((older, SUPERSEDED))
        if last is not None:
            message = f"displaced by a more urgent request: all {self._queue.capacity} places of the queue are taken"
            retry_after_s = self._retry_after_s(running, loading_s)
            leaving.append((last, Error(code=Code.QUEUE_FULL, message=message, retry_after_s=retry_after_s)))
        for request, _ in leaving:
            self._queue.remove(request)
        self._queue.add(newcomer)
        return leaving

    def estimated_wait_ms(self, running: Backlog) -> float | None:
        """How long a request would wait that comes after all that are here; None = unknown."""
        backlog = self._forecast.add(self._queue.waiting, running)
        if backlog.count < backlog.slots:
            return 0.0
        return backlog.work_s * 1000 if backlog.slots and backlog.is_known else None

    def _check_deadline(self, newcomer: Request, waiting: Sequence[Request], running: Backlog, now: float) -> None:
        """Raises Refusal if the newcomer would be late, or would make a request of its own priority late."""
        split = bisect.bisect(waiting, newcomer.place, key=attrgetter("place"))
        predicted = self._forecast.predict(newcomer, waiting[:split], waiting[split:], running, now)
        if predicted is None:
            return
        if now + predicted.takes_s > newcomer.deadline_at:
            # Counted from its arrival, as its deadline is.
            total_ms = (now + predicted.takes_s - newcomer.arrived_at) * 1000
            message = f"would be answered after about {total_ms:.0f} ms, too late for {newcomer.deadline}"
            retry_after_s = self._retry_after_s(running, None)
            if predicted.is_alone:  # waiting does not help
                retry_after_s = max(retry_after_s, _rounded_up(predicted.believed_until - now))
            raise Refusal(Code.DEADLINE_UNREACHABLE, message, retry_after_s)
        if predicted.makes_late:
            message = f"would be answered within {newcomer.deadline}, but make an admitted request late"
            raise Refusal(Code.DEADLINE_UNREACHABLE, message, self._retry_after_s(running, None))

    def _retry_after_s(self, running: Backlog, loading_s: float | None) -> float:
        """When everything that is here will be done."""
        backlog = self._forecast.add(self._queue.waiting, running)
        work_s = backlog.work_s if backlog.work_s or backlog.is_known else UNKNOWN_RETRY_S
        return _rounded_up(work_s + (loading_s or 0.0))


def _rounded_up(seconds: float) -> float:
    return max(SHORTEST_RETRY_S, math.ceil(seconds * 10) / 10)
