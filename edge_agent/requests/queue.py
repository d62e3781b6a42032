"""The waiting requests, and which of them may wait. A refusal says why, and when to come back."""

import bisect
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import attrgetter

from edge_agent.core.codes import Code, Error, Refusal
from edge_agent.core.config import Config
from edge_agent.requests.forecast import Forecast
from edge_agent.requests.request import Request

# The wait to suggest while nothing is known about the work ahead.
UNKNOWN_RETRY_S = 1.0
# A drain ends by a command or a restart, at an unknown time.
RESTART_RETRY_S = 10.0

# The bucket that was used the longest ago is dropped, as if it were full.
MAX_BUCKETS = 1000

SUPERSEDED = Error(code=Code.SUPERSEDED, message="a newer reading from the same source has arrived")
_ORDER = attrgetter("order")


class RateLimiter:
    """Limits by token buckets how many requests a minute a task answers, or a reply topic gets."""

    def __init__(self) -> None:
        # The tokens, and when they were counted; the latest last.
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, subject: str, name: str, per_minute: int, now: float) -> None:
        """Counts a request. Raises Refusal if the bucket is empty, with the seconds until it is not, in tenths.

        `subject` tells the caller what is limited, and `name` tells buckets of one subject apart.
        """
        tokens, at = self._buckets.get((subject, name), (per_minute, now))
        tokens = min(per_minute, tokens + (now - at) * per_minute / 60)
        if tokens < 1:
            wait_s = _rounded_up((1 - tokens) * 60 / per_minute)
            raise Refusal(Code.RATE_LIMITED, f"{subject}: at most {per_minute} requests per minute", wait_s)
        self._buckets.pop((subject, name), None)
        self._buckets[subject, name] = (tokens - 1, now)
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """What one model of the engine does now."""

    slots: int  # The requests that it runs at once; 0 where there is no engine.
    running: int = 0
    work_s: float = 0.0  # What is left of them, in seconds of the engine's time, as far as that is known.
    loading_s: float | None = None  # How long until there is an engine, if it loads and that is known.


class RequestQueue:
    """`waiting` holds the requests in the order in which they start.

    A more urgent request starts before a less urgent one, and takes its place in a full queue. Less urgent priorities
    may starve. Within a priority the earliest deadline starts first. A newcomer is refused if it would be late by the
    forecast, or would make an admitted request of its priority late.
    """

    def __init__(self, config: Config, forecast: Forecast) -> None:
        self.waiting: list[Request] = []
        self._config = config
        self._forecast = forecast
        self._rates = RateLimiter()

    def reconfigure(self, config: Config) -> None:
        self._config = config

    @property
    def capacity(self) -> int:
        return self._config.queue.capacity

    def count_for_rates(self, request: Request, now: float) -> None:
        """Raises Refusal where a rate is exceeded, else counts the request."""
        assert request.task is not None
        for subject, name, per_minute in (
            ("reply topic", request.reply_topic, self._config.queue.rate_per_minute),
            (f"task {request.task_name}", "", request.task.config.rate_per_minute),
        ):
            if per_minute is not None:
                self._rates.take(subject, name, per_minute, now)

    def admit(self, newcomer: Request, engine: EngineLoad, now: float) -> list[tuple[Request, Error]]:
        """Queues a newcomer. Returns the requests that it replaces or displaces, and why.

        Raises Refusal(queue_full, loading, deadline_unreachable); then the queue is as before.
        """
        source = newcomer.source
        older = [] if source is None else [request for request in self.waiting if request.source == source]
        if older:
            # It keeps the older one's place. Otherwise, readings that come faster than answers would supersede each
            # other forever, and none would run.
            newcomer.order = min(newcomer.order, older[0].order)
        waiting = [request for request in self.waiting if request not in older]
        last = waiting[-1] if len(waiting) >= self.capacity else None
        if last is not None and last.priority <= newcomer.priority:
            code, why = (Code.QUEUE_FULL, "") if engine.slots else (Code.LOADING, " while the model is loading")
            raise Refusal(code, f"{self._full}{why}", self._retry_after_s(engine, now))
        if engine.slots:
            self._check_deadline(newcomer, waiting, engine, now)
        elif engine.loading_s is not None and now + engine.loading_s > newcomer.deadline_at:
            left = f"for about {engine.loading_s:.1f} s more, too late for {newcomer.deadline}"
            raise Refusal(Code.LOADING, f"the model is still loading, {left}", self._retry_after_s(engine, now))
        leaving = [(request, SUPERSEDED) for request in older]
        if last is not None:
            message = f"displaced by a more urgent request: {self._full}"
            error = Error(code=Code.QUEUE_FULL, message=message, retry_after_s=self._retry_after_s(engine, now))
            leaving.append((last, error))
        for request, _ in leaving:
            self.waiting.remove(request)
        self.put(newcomer)
        return leaving

    @property
    def _full(self) -> str:
        return f"the queue is full ({self.capacity} requests)"

    def _check_deadline(self, newcomer: Request, waiting: list[Request], engine: EngineLoad, now: float) -> None:
        """Raises Refusal if the newcomer would be late, or would make a request of its own priority late."""
        own = self._forecast.estimate_for(newcomer.cost_class)
        if own is None or now >= own.trusted_until:
            return
        waiting = [request for request in waiting if request.answerer == newcomer.answerer]
        split = bisect.bisect(waiting, newcomer.order, key=_ORDER)
        ahead = engine.running + split
        work_s = engine.work_s + self._work_s(waiting[:split])
        takes_s = own.time_to_answer_s(ahead, work_s, engine.slots)
        if now + takes_s > newcomer.deadline_at:
            # Counted from its arrival, as its deadline is.
            total_ms = (now + takes_s - newcomer.arrived_at) * 1000
            message = f"would be answered after about {total_ms:.0f} ms, too late for {newcomer.deadline}"
            # With nothing ahead, a later try helps only once the estimate is no longer trusted.
            retry_after_s = self._retry_after_s(engine, now) if ahead else _rounded_up(own.trusted_until - now)
            raise Refusal(Code.DEADLINE_UNREACHABLE, message, retry_after_s)
        for request in waiting[split:]:
            expected = self._forecast.estimate_for(request.cost_class)
            if expected is not None and request.priority == newcomer.priority:
                left_s = request.deadline_at - now
                before_s = expected.time_to_answer_s(ahead, work_s, engine.slots)
                after_s = expected.time_to_answer_s(ahead + 1, work_s + own.engine_time_s, engine.slots)
                if before_s <= left_s < after_s:
                    message = f"would be answered within {newcomer.deadline}, but would make an admitted request late"
                    raise Refusal(Code.DEADLINE_UNREACHABLE, message, self._retry_after_s(engine, now))
            ahead += 1
            work_s += expected.engine_time_s if expected else 0.0

    def _work_s(self, requests: list[Request]) -> float:
        return sum(self._forecast.engine_time_s(request.cost_class) for request in requests)

    def _retry_after_s(self, engine: EngineLoad, now: float) -> float:
        """When everything that is here will be done, or what waits has passed its deadline."""
        work_s = engine.work_s + self._work_s(self.waiting)
        if self.waiting:
            work_s = max(0.0, min(work_s, max(request.deadline_at for request in self.waiting) - now))
        return _rounded_up(work_s + (engine.loading_s or 0.0) or UNKNOWN_RETRY_S)

    def estimated_wait_ms(self, engine: EngineLoad) -> float | None:
        """How long a request would wait that comes after all that are here; None if unknown."""
        if engine.running + len(self.waiting) < engine.slots:
            return 0.0
        return (engine.work_s + self._work_s(self.waiting)) * 1000 or None if engine.slots else None

    def has_newer(self, request: Request) -> bool:
        return request.source is not None and any(
            other.source == request.source and other.number > request.number for other in self.waiting
        )

    def put(self, request: Request) -> None:
        """Lets a request wait that was admitted before, even beyond the capacity."""
        bisect.insort(self.waiting, request, key=_ORDER)

    def take(self, free: Collection[str], *, first_attempts_only: bool) -> Request | None:
        """Takes out the next request to run. `free` are the models with a slot.

        `first_attempts_only` stops at a request that was running when a worker died, because that one runs alone.
        """
        for place, request in enumerate(self.waiting if free else ()):
            if first_attempts_only and request.attempts:
                return None
            if request.answerer in free:
                return self.waiting.pop(place)
        return None

    def remove_where(self, is_unwanted: Callable[[Request], bool]) -> list[Request]:
        """Takes out every waiting request for which this is true, in their order."""
        removed = [request for request in self.waiting if is_unwanted(request)]
        if removed:
            self.waiting = [request for request in self.waiting if not is_unwanted(request)]
        return removed

    def oldest_ms(self, now: float) -> float | None:
        """How long the longest waiting request has waited; None while none waits."""
        oldest = min((request.arrived_at for request in self.waiting), default=None)
        return None if oldest is None else (now - oldest) * 1000


def _rounded_up(seconds: float) -> float:
    return math.ceil(seconds * 10) / 10
