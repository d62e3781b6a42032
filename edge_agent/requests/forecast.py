"""When a request will be answered, estimated from how long earlier ones of its kind took.

Each kind of request has two means, because the engine runs several requests at once. Its share of the engine's time
adds up over the requests before it. Its run, from hand-over to end, is what it takes itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.core.pipe import LabelsPlan, Run
from edge_agent.requests.request import Kind

# A run is expected to take its mean and this many mean deviations, the work ahead its mean and a quarter.
DEVIATIONS, CAUTION = 4.0, 1.25
# Weight of the latest run in the means, once there are many.
SMOOTHING = 0.1
# A figure counts for 5 s per run behind it, a minute at most. Then a request that it speaks against is tried again.
BELIEVED_PER_RUN_S, BELIEVED_S = 5.0, 60.0
# A run that was cut off takes at least this much longer than it got.
CUT_OFF_FACTOR = 1.1


def kind_of(run: Run) -> Kind:
    """Requests of one kind take about as long."""
    characters = sum(len(message.content) for message in run.messages if message.role != "system")
    tokens = 0 if isinstance(run.plan, LabelsPlan) else run.max_tokens
    return (run.task, characters.bit_length(), tokens.bit_length())


@dataclass(slots=True)
class Estimate:
    """What a request takes, in seconds. deviation_s: mean of its runs' deviations. count: runs measured."""

    share_s: float = 0.0
    run_s: float = 0.0
    deviation_s: float = 0.0
    count: int = 0
    believed_until: float = 0.0

    def answered_in_s(self, ahead: int, work_s: float, slots: int) -> float:
        """When a request is answered that comes after this many others, with work_s of the engine's time."""
        if not ahead:  # an idle engine tries what is likely in time
            return self.share_s
        run_s = self.run_s + DEVIATIONS * self.deviation_s
        return run_s if ahead < slots else run_s + CAUTION * work_s

    def believe(self, now: float) -> None:
        self.believed_until = now + min(BELIEVED_S, BELIEVED_PER_RUN_S * self.count)


class Forecast:
    """What was measured of each kind of request, and of each task over all its kinds."""

    def __init__(self) -> None:
        self._estimates: dict[Kind | str, Estimate] = {}

    def clear(self) -> None:
        """Another model answers from now on: what was measured says nothing about it."""
        self._estimates.clear()

    def measure(self, kind: Kind, *, share_s: float, run_s: float, now: float) -> None:
        """A run has ended. It replaces a figure that is not believed any more."""
        for key in (kind, kind[0]):
            estimate = self._estimates.get(key)
            if estimate is None or now >= estimate.believed_until:
                estimate = self._estimates[key] = Estimate()
            estimate.count += 1
            weight = max(SMOOTHING, 1 / estimate.count)
            estimate.share_s += weight * (share_s - estimate.share_s)
            estimate.run_s += weight * (run_s - estimate.run_s)
            estimate.deviation_s += weight * (abs(run_s - estimate.run_s) - estimate.deviation_s)
            estimate.believe(now)

    def measure_cut_off(self, kind: Kind, *, run_s: float, at_once: int, now: float) -> None:
        """A request was stopped after run_s, so it takes longer than that. at_once: the requests that ran with it.

        Without this, requests that never make their deadline would never be measured, and be admitted forever.
        """
        known, least_s = self.expect(kind), CUT_OFF_FACTOR * run_s
        if known is None or known.run_s < least_s:
            self.measure(kind, share_s=least_s / at_once, run_s=least_s, now=now)
        else:
            known.believe(now)

    def expect(self, kind: Kind) -> Estimate | None:
        """By what was measured of the kind, else of its task; None = unknown."""
        return self._estimates.get(kind) or self._estimates.get(kind[0])

    def share_s(self, kind: Kind) -> float:
        """The engine's time for a request of this kind; 0 = unknown."""
        estimate = self.expect(kind)
        return estimate.share_s if estimate else 0.0
