"""PURE. The bounded queue of waiting requests: most urgent class first, earliest deadline first within it."""

from __future__ import annotations

import bisect
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge_agent.core.messages import Origin
from edge_agent.core.protocol import Run
from edge_agent.requests.latency import Kind, kind_of

# Of so many starts that passed over somebody less urgent, one goes to him.
TURN = 10

Source = tuple[str, str]
Place = tuple[int, float, int]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who is owed a terminal reply. row: where that is recorded (journal.py); None = nowhere."""

    origin: Origin
    row: int | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One request, new, waiting or running. Times are seconds of the monotonic clock.

    row: as of Asker. run: what the worker is asked, complete but for nothing. attempts: how often it was handed to a
    worker.
    supersedes: requests with the same key are made void by a newer one (`keep = "latest"`), None = never.
    deadline_from: who named the deadline, in words for its caller.
    due_at, rank: the deadline and the class that its place in the queue goes by.
    """

    number: int
    origin: Origin
    row: int | None = None
    run: Run
    arrived_at: float
    deadline_at: float
    priority: int
    deadline_from: str = "request"
    include_reasoning: bool = False
    min_score: float = 0.0
    supersedes: Source | None = None
    started_at: float | None = None
    attempts: int = 0
    partials: int = 0
    # Further askers of the same question (see duplicates.py): each gets a reply of its own.
    followers: list[Asker] = field(default_factory=list)
    kind: Kind = field(init=False)
    rank: int = field(init=False)
    due_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.kind = kind_of(self.run)
        self.rank = self.priority
        self.due_at = self.deadline_at

    @property
    def place(self) -> Place:
        """Requests start in the order of their places."""
        return (self.rank, self.due_at, self.number)

    @property
    def deadline(self) -> str:
        return told_deadline(self.deadline_at - self.arrived_at, self.deadline_from)


def told_deadline(limit_s: float, source: str) -> str:
    """A deadline as its caller is told of it."""
    return f"the deadline of {limit_s * 1000:.0f} ms ({source})"


class RequestQueue:
    """At most `capacity` waiting requests. Nothing here knows the time: calls that need it take `now`.

    No class starves: every TURN-th start that passes over somebody less urgent (who waits, or was turned away since the
    start before) is his turn. The earliest deadline of those passed over starts then; or, if none of them waits any
    more, the next that would be turned away is let into the class that starts. So whatever the flood, the more urgent
    lose at most one start in TURN, and the others are not shut out. A class that rose with the time waited would bound
    neither: under overload, old lax requests would come before fresh urgent ones.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._places: list[Place] = []
        self._waiting: dict[int, Request] = {}
        self._kinds: Counter[Kind] = Counter()
        self._latest: dict[Source, Request] = {}
        # Deadlines with the numbers of requests; those that are not true any more are forgotten in time.
        self._deadlines: list[tuple[float, int]] = []
        # Starts that passed over somebody since his last turn, the class of the latest start that was no turn, and the
        # least urgent class of those turned away since.
        self._passed_over = 0
        self._starting_rank = 0
        self._turned_away_rank = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        """In the order in which they will start, turns aside."""
        return (self._waiting[number] for _, _, number in self._places)

    @property
    def kinds(self) -> Mapping[Kind, int]:
        """How many of each kind wait."""
        return self._kinds

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self.capacity

    def add(self, request: Request) -> None:
        """Lets a request wait. The caller has seen that there is room; one put back after a crash may exceed it."""
        self._waiting[request.number] = request
        bisect.insort(self._places, request.place)
        self._kinds[request.kind] += 1
        heapq.heappush(self._deadlines, (request.deadline_at, request.number))
        if request.supersedes is not None:
            self._latest[request.supersedes] = request

    def latest(self, source: Source) -> Request | None:
        """The request that waits and that a newer one of this source makes void."""
        return self._latest.get(source)

    def before(self, place: Place) -> Counter[Kind]:
        """How many of each kind come before this place. Looks at the nearer end of the queue only."""
        split = bisect.bisect_left(self._places, place)
        if split <= len(self._places) // 2:
            return Counter(self._waiting[number].kind for _, _, number in self._places[:split])
        return self._kinds - Counter(request.kind for request in self.behind(place))

    def behind(self, place: Place) -> Iterator[Request]:
        """Those that come after this place, in order."""
        split = bisect.bisect_left(self._places, place)
        return (self._waiting[number] for _, _, number in self._places[split:])

    def least_urgent(self) -> Request | None:
        """The one that would start last."""
        return self._waiting[self._places[-1][2]] if self._places else None

    def take(self) -> Request | None:
        """The next request to run, or None."""
        if not self._places:
            return None
        rank, _, number = self._places[0]
        is_passing_over = self._places[-1][0] > rank
        if is_passing_over and self._is_turn_due:
            number = self._first_behind(rank)
            self._passed_over = 0
        else:
            self._passed_over += is_passing_over or self._turned_away_rank > rank
            self._starting_rank = rank
        self._turned_away_rank = 0
        request = self._waiting[number]
        self.drop(request)
        return request

    @property
    def _is_turn_due(self) -> bool:
        return self._passed_over >= TURN - 1

    def is_turn_of(self, request: Request) -> bool:
        """Whether this request, waiting or new, need not be turned away: it is passed over, and a turn is due."""
        return self._is_turn_due and request.rank > self._starting_rank

    def turn_away(self, request: Request) -> None:
        """Tells that this request, waiting or new, had to go."""
        self._turned_away_rank = max(self._turned_away_rank, request.rank)

    @contextmanager
    def turn_for(self, newcomer: Request) -> Iterator[None]:
        """The newcomer is in the class that starts; an exception in this block gives the turn back."""
        rank, newcomer.rank = newcomer.rank, self._starting_rank
        try:
            yield
        except BaseException:
            newcomer.rank = rank
            raise
        self._passed_over = 0

    def promote(self) -> None:
        """Uses the turn: the earliest deadline of those passed over (one waits) is in the class that starts now."""
        request = self._waiting[self._first_behind(self._starting_rank)]
        self.drop(request)
        request.rank = self._starting_rank
        self.add(request)
        self._passed_over = 0

    def _first_behind(self, rank: int) -> int:
        """The earliest deadline of the classes less urgent than this one."""
        behind = bisect.bisect_left(self._places, (rank + 1,))
        return min(self._places[behind:], key=lambda place: place[1:])[2]

    def drop(self, request: Request) -> None:
        """Takes out one that waits."""
        del self._waiting[request.number]
        del self._places[bisect.bisect_left(self._places, request.place)]
        self._kinds[request.kind] -= 1
        if not self._kinds[request.kind]:
            del self._kinds[request.kind]
        if request.supersedes is not None and self._latest.get(request.supersedes) is request:
            del self._latest[request.supersedes]
        if len(self._deadlines) > 2 * len(self._waiting) + 16:
            self._deadlines = [entry for entry in self._deadlines if self._is_current(*entry)]
            heapq.heapify(self._deadlines)

    def remove(self, is_unwanted: Callable[[Request], bool]) -> list[Request]:
        """Takes out every waiting request for which this is true, in order of arrival."""
        removed = [request for request in self._waiting.values() if is_unwanted(request)]
        for request in removed:
            self.drop(request)
        return removed

    def expire(self, now: float) -> list[Request]:
        """Takes out the requests whose deadline has passed, the earliest first."""
        expired = []
        while (at := self.next_deadline_at()) is not None and at <= now:
            expired.append(self._waiting[self._deadlines[0][1]])
            self.drop(expired[-1])
        return expired

    def postpone(self, is_meant: Callable[[Request], bool], seconds: float) -> None:
        """Gives waiting requests so much more time. Their places stay."""
        for request in filter(is_meant, self._waiting.values()):
            request.deadline_at += seconds
            heapq.heappush(self._deadlines, (request.deadline_at, request.number))

    def next_deadline_at(self) -> float | None:
        while self._deadlines and not self._is_current(*self._deadlines[0]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _is_current(self, deadline_at: float, number: int) -> bool:
        request = self._waiting.get(number)
        return request is not None and request.deadline_at == deadline_at

    def oldest_ms(self, now: float) -> float | None:
        """How long the longest waiting request has waited; None while none waits."""
        oldest = min((request.arrived_at for request in self._waiting.values()), default=None)
        return None if oldest is None else (now - oldest) * 1000
