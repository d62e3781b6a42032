"""PURE. When a request will be answered, from what the engine has to do before it.

A request starts when the engine has done the work of those that run and of those before it in the queue, and ends one
run later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge_agent.requests.latency import Expectation, Kind, Latency

# A cautious estimate: so many standard deviations of the work ahead, and the run that 95 of 100 do not exceed.
CAUTIOUS_DEVIATIONS = 2.0
CAUTIOUS_PERCENT = 95
LIKELY_PERCENT = 50


@dataclass(slots=True, kw_only=True)
class Ahead:
    """What the engine does before a request's turn.

    slots: requests that run at once. count: requests that run or come first. work_s: what is left of their work, in
    seconds of the engine's time; variance: of that, in s². is_known: whether all of them are in work_s.
    """

    slots: int
    count: int = 0
    work_s: float = 0.0
    variance: float = 0.0
    is_known: bool = True

    def run(self, expected: Expectation | None, elapsed_s: float, beside: int) -> None:
        """Adds one that was handed over elapsed_s ago and runs with so many at once."""
        self.count += 1
        self.is_known &= expected is not None
        if expected is not None:
            # One that runs for longer than nearly all do tells that the engine is slow now: it needs as long again.
            overdue_s = max(0.0, elapsed_s - expected.run_s(CAUTIOUS_PERCENT, beside))
            self.work_s += max(0.0, expected.share_s - elapsed_s / beside) + overdue_s / beside
            self.variance += expected.variance

    def wait(self, expected: Expectation | None, count: int = 1) -> None:
        """Adds some that wait."""
        self.count += count
        self.is_known &= expected is not None
        if expected is not None:
            self.work_s += count * expected.share_s
            self.variance += count * expected.variance

    @property
    def _beside(self) -> int:
        return max(1, min(self.slots, self.count + 1))

    def likely_s(self, own: Expectation) -> float:
        """How long until a request is answered, as likely as not."""
        run_s = own.run_s(LIKELY_PERCENT, self._beside)
        if self.count < self.slots:
            return run_s
        # Those that run when it starts have done half of their work on average; the rest is in its own run already.
        return run_s + max(0.0, self.work_s - own.share_s * (self.slots - 1) / 2)

    def cautious_s(self, own: Expectation) -> float:
        """How long until a request is answered, in nearly all cases."""
        if own.is_guess:
            # As likely too long as too short: caution on top of it would only refuse more.
            return self.likely_s(own)
        run_s = max(own.run_s(CAUTIOUS_PERCENT, self._beside), own.share_s * self._beside)
        if self.count < self.slots:
            return run_s
        return run_s + self.work_s + CAUTIOUS_DEVIATIONS * math.sqrt(self.variance)

    def after_all(self, waiting: Mapping[Kind, int], latency: Latency) -> Ahead:
        """What is ahead of one that comes after all these too."""
        ahead = replace(self)
        for kind, count in waiting.items():
            ahead.wait(latency.expect(kind), count)
        return ahead
