"""When a request will be answered, estimated from how long earlier ones of its cost class took.

Each class has two means, because the engine runs several requests at once. Its share of the engine's time
adds up over the requests before it. Its run, from hand-over to end, is what it takes itself.
"""

from dataclasses import dataclass

from edge_agent.core.pipe import EngineRequest
from edge_agent.requests.request import CostClass

# A run is expected to take its mean plus this many mean deviations, and the work ahead 1.25 times its mean.
DEVIATIONS, CAUTION = 4.0, 1.25
# Weight of the latest run in the means, once there are many.
SMOOTHING = 0.1
# An estimate is trusted for 5 s per run that was measured, at most for a minute. After that, a request is admitted even
# if the estimate says that it would be late.
TRUSTED_PER_RUN_S, TRUSTED_S = 5.0, 60.0
# A run that was cut off is taken to need at least this many times what it got.
CUT_OFF_FACTOR = 1.1


def cost_class_of(engine_request: EngineRequest) -> CostClass:
    """The class of requests that take about equally long."""
    name = engine_request.task if engine_request.student is None else f"{engine_request.task}/{engine_request.student}"
    characters = sum(len(message.content) for message in engine_request.messages if message.role != "system")
    return (name, characters.bit_length(), engine_request.max_tokens.bit_length())


@dataclass(slots=True)
class Estimate:
    """What a request takes, in seconds."""

    engine_time_s: float = 0.0
    run_s: float = 0.0
    deviation_s: float = 0.0  # The mean of its runs' deviations.
    run_count: int = 0
    trusted_until: float = 0.0

    def time_to_answer_s(self, ahead: int, work_s: float, slots: int) -> float:
        """How long until a request is answered that has `ahead` others before it, which need work_s of engine time."""
        if not ahead:  # There is no margin, because an idle engine may try what will probably be in time.
            return self.engine_time_s
        run_s = self.run_s + DEVIATIONS * self.deviation_s
        return run_s if ahead < slots else run_s + CAUTION * work_s

    def extend_trust(self, now: float) -> None:
        self.trusted_until = now + min(TRUSTED_S, TRUSTED_PER_RUN_S * self.run_count)


class Forecast:
    """What was measured of each cost class, and of each task over all its classes."""

    def __init__(self) -> None:
        self._estimates: dict[CostClass | str, Estimate] = {}

    def clear(self) -> None:
        """Forgets what was measured, which says nothing about the model that answers from now on."""
        self._estimates.clear()

    def record_run(self, cost_class: CostClass, *, engine_time_s: float, run_s: float, now: float) -> None:
        """Records a run that has ended. It replaces a figure that is no longer trusted."""
        for key in (cost_class, cost_class[0]):
            estimate = self._estimates.get(key)
            if estimate is None or now >= estimate.trusted_until:
                estimate = self._estimates[key] = Estimate()
            estimate.run_count += 1
            weight = max(SMOOTHING, 1 / estimate.run_count)
            estimate.engine_time_s += weight * (engine_time_s - estimate.engine_time_s)
            estimate.run_s += weight * (run_s - estimate.run_s)
            estimate.deviation_s += weight * (abs(run_s - estimate.run_s) - estimate.deviation_s)
            estimate.extend_trust(now)

    def record_cut_off(self, cost_class: CostClass, *, run_s: float, at_once: int, now: float) -> None:
        """Records that a request was stopped after `run_s`, so it takes longer than that.

        `at_once` is how many requests ran then, including this one. Without this record, requests that never make their
        deadline would never be measured, and be admitted forever.
        """
        known, least_s = self.estimate_for(cost_class), CUT_OFF_FACTOR * run_s
        if known is None or known.run_s < least_s:
            self.record_run(cost_class, engine_time_s=least_s / at_once, run_s=least_s, now=now)
        else:
            known.extend_trust(now)

    def estimate_for(self, cost_class: CostClass) -> Estimate | None:
        """An estimate by what was measured of the class, else of its task; None if unknown."""
        return self._estimates.get(cost_class) or self._estimates.get(cost_class[0])

    def engine_time_s(self, cost_class: CostClass) -> float:
        """The engine's time for a request of this class; 0 if unknown."""
        estimate = self.estimate_for(cost_class)
        return estimate.engine_time_s if estimate else 0.0
