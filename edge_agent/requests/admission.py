"""PURE. Who may wait: whether a newcomer can be answered within its deadline, and who has to go for it.

An admission is a promise, so it is given by a cautious estimate, and only a more urgent class may break it. Whoever is
pushed beyond his deadline, or out of a full queue, by one that is more urgent is told at once, while he can still ask
elsewhere; a newcomer that would do so to its own class is refused itself. Without such a reason a promise is withdrawn
only when even the likely estimate misses the deadline: the engine's time then goes to those who can still be answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

from edge_agent.core.messages import Code, Error, Refusal
from edge_agent.requests.forecast import Ahead
from edge_agent.requests.latency import Kind, Latency
from edge_agent.requests.request_queue import Request, RequestQueue

SHORTEST_RETRY_S = 0.1
# Said while nothing is known of how long requests take.
UNKNOWN_RETRY_S = 1.0
# Said while draining, at the least: a drain ends by a command or by a new start, and nobody knows when.
DRAINING_RETRY_S = 10.0
# How far from the front of the queue promises are looked at again; the others when they come nearer.
WITHDRAW_DEPTH = 100

# One that has been taken out of the queue, and what its caller is told.
Loser = tuple[Request, Error]
# One that has to go, and why.
_Notice = tuple[Request, Code, str]


@dataclass(frozen=True, slots=True)
class Admission:
    """Decisions at one moment.

    running: what the engine has to do for those that run; no slots = there is no engine.
    loading_s: how long until there is one again, None = unknown.
    """

    queue: RequestQueue
    running: Ahead
    latency: Latency
    now: float
    loading_s: float | None = None

    @property
    def wait_s(self) -> float | None:
        """How long one that came last would wait; None = unknown."""
        backlog = self.running.after_all(self.queue.kinds, self.latency)
        if backlog.count < backlog.slots:
            return 0.0
        return backlog.work_s if backlog.slots and backlog.is_known else None

    @property
    def retry_after_s(self) -> float:
        """When everything that is here will have been done."""
        return self._done_after_s(self.queue.kinds)

    def _done_after_s(self, waiting: Mapping[Kind, int]) -> float:
        backlog = self.running.after_all(waiting, self.latency)
        work_s = backlog.work_s if backlog.work_s or backlog.is_known else UNKNOWN_RETRY_S
        return _rounded_up(work_s + (self.loading_s or 0.0))

    def enter(self, newcomer: Request) -> tuple[Request | None, list[Loser]]:
        """Puts a newcomer into the queue. Gives the older reading that it supersedes, and those that had to go for it.

        Raises Refusal(queue_full, loading, deadline_unreachable); then all who wait still do, the older reading too.
        """
        older = None if newcomer.supersedes is None else self.queue.latest(newcomer.supersedes)
        if older is not None:
            # In its place: readings that come faster than answers would else supersede each other for ever.
            self.queue.drop(older)
            newcomer.due_at = min(newcomer.due_at, older.due_at)
            newcomer.rank = min(newcomer.rank, older.rank)
        try:
            notices = self._weigh_with_turns(newcomer)
        except Refusal:
            if older is not None:
                self.queue.add(older)
            self.queue.turn_away(newcomer)
            raise
        for loser, _, _ in notices:
            self.queue.turn_away(loser)
            self.queue.drop(loser)
        self.queue.add(newcomer)
        return older, self._losers(notices)

    def withdraw(self) -> list[Loser]:
        """Takes out those near the front that will likely miss their deadline; without an engine, those whose deadline
        comes before it."""
        notices = self._likely_late() if self.running.slots else self._all_too_early()
        for loser, _, _ in notices:
            self.queue.drop(loser)
        return self._losers(notices)

    def _all_too_early(self) -> list[_Notice]:
        return [(request, Code.LOADING, why) for request in self.queue if (why := self._too_early(request))]

    def _likely_late(self) -> list[_Notice]:
        ahead = replace(self.running)
        notices: list[_Notice] = []
        for request in islice(self.queue, WITHDRAW_DEPTH):
            expected = self.latency.expect(request.kind)
            if expected is not None and not expected.is_stale(self.now):
                likely_s = ahead.likely_s(expected)
                if self.now + likely_s > request.deadline_at:
                    notices.append(self._withdrawn("delayed, would now be", likely_s, request))
                    continue
            ahead.wait(expected)
        return notices

    def _losers(self, notices: list[_Notice]) -> list[Loser]:
        """They may come back when all that is here of their class, and of more urgent ones, will have been done.

        If nobody else came they would be in time earlier, mostly by a hair. But it is others who came that pushed them
        out, and all of them would be back at once.
        """
        ranks = {request.rank for request, _, _ in notices}
        retry_after_s = {rank: self._done_after_s(self.queue.before((rank, math.inf, 0))) for rank in ranks}
        return [
            (request, Error(code=code, message=message, retry_after_s=retry_after_s[request.rank]))
            for request, code, message in notices
        ]

    def _weigh_with_turns(self, newcomer: Request) -> list[_Notice]:
        try:
            notices = self._weigh(newcomer)
        except Refusal:
            if not self.queue.is_turn_of(newcomer):
                raise
            with self.queue.turn_for(newcomer):
                return self._weigh(newcomer)
        if any(self.queue.is_turn_of(loser) for loser, _, _ in notices):
            self.queue.promote()
            return self._weigh(newcomer)
        return notices

    def _weigh(self, newcomer: Request) -> list[_Notice]:
        """Who has to go for a newcomer, all of them less urgent. Raises Refusal.

        Takes time in proportion to the fewer of those before and behind it; if it can be admitted, to those behind it.
        """
        if why := self._too_early(newcomer):
            raise Refusal(Code.LOADING, why, self.retry_after_s)
        last = self.queue.least_urgent() if self.queue.is_full else None
        if last is not None and last.rank <= newcomer.rank:
            code, why = (
                (Code.QUEUE_FULL, "") if self.running.slots else (Code.LOADING, " while the model is being loaded")
            )
            message = f"all {self.queue.capacity} places of the queue are taken{why}"
            raise Refusal(code, message, self.retry_after_s)
        notices = self._pushed_back(newcomer) if self.running.slots else []
        if last is not None and not notices:
            message = f"displaced by a more urgent request: all {self.queue.capacity} places of the queue are taken"
            notices = [(last, Code.QUEUE_FULL, message)]
        return notices

    def _pushed_back(self, newcomer: Request) -> list[_Notice]:
        """The less urgent ones that a newcomer would make late. Raises Refusal if it, or others, would be late."""
        self._refuse_hopeless(newcomer)
        own = self.latency.expect(newcomer.kind)
        if own is None:
            return []
        before = self.running.after_all(self.queue.before(newcomer.place), self.latency)
        takes_s = before.cautious_s(own)
        late_s = self.now + takes_s - newcomer.deadline_at
        # An idle engine runs whatever is not hopeless, so that an estimate that is too high heals.
        if late_s > 0 and before.count and not own.is_stale(self.now):
            # A backlog shrinks by a second in a second; a run that is too long by itself needs an idle engine.
            retry_after_s = _rounded_up(late_s) if late_s <= before.work_s else self.retry_after_s
            raise Refusal(Code.DEADLINE_UNREACHABLE, self._too_late("would be", takes_s, newcomer), retry_after_s)
        after = replace(before)
        after.wait(own)
        notices: list[_Notice] = []
        for request in self.queue.behind(newcomer.place):
            expected = self.latency.expect(request.kind)
            if expected is not None and not expected.is_stale(self.now):
                left_s = request.deadline_at - self.now
                if request.rank > newcomer.rank:
                    likely_s = after.likely_s(expected)
                    if likely_s > left_s:
                        notices.append(self._withdrawn("displaced, would now be", likely_s, request))
                        continue
                elif after.cautious_s(expected) > left_s >= (ends_s := before.cautious_s(expected)):
                    message = f"would be answered after about {takes_s * 1000:.0f} ms, within {newcomer.deadline}, "
                    message += "but make an admitted request late"
                    raise Refusal(Code.DEADLINE_UNREACHABLE, message, _rounded_up(ends_s))
            before.wait(expected)
            after.wait(expected)
        return notices

    def _refuse_hopeless(self, newcomer: Request) -> None:
        """Raises Refusal if it would be late even on an idle engine, by what was seen of one lately."""
        least = self.latency.least(newcomer.kind, self.now)
        if least is None or self.now + least.least_s <= newcomer.deadline_at:
            return
        message = f"takes at least {least.least_s * 1000:.0f} ms even when nothing else runs, "
        message += f"too long for {newcomer.deadline}"
        # Nothing is gained by waiting, but that from then on one is tried all the same.
        retry_after_s = max(self.retry_after_s, _rounded_up(least.believed_until - self.now))
        raise Refusal(Code.DEADLINE_UNREACHABLE, message, retry_after_s)

    def _too_early(self, request: Request) -> str | None:
        """What tells one whose deadline comes before there is an engine again; None = it does not."""
        if self.loading_s is None or self.now + self.loading_s <= request.deadline_at:
            return None
        return f"the model is being loaded, for about {self.loading_s:.1f} s more, too late for {request.deadline}"

    def _withdrawn(self, why: str, takes_s: float, request: Request) -> _Notice:
        return request, Code.DEADLINE_UNREACHABLE, self._too_late(why, takes_s, request)

    def _too_late(self, why: str, takes_s: float, request: Request) -> str:
        # Counted from its arrival, as its deadline is.
        total_ms = (self.now + takes_s - request.arrived_at) * 1000
        return f"{why} answered after about {total_ms:.0f} ms, too late for {request.deadline}"


def _rounded_up(seconds: float) -> float:
    return max(SHORTEST_RETRY_S, math.ceil(seconds * 10) / 10)
