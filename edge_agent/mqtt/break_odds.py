"""PURE. Whether connections break more often while something is out than while it is not: chance against cause."""

from __future__ import annotations

from math import exp, lgamma, log

# At least so many breaks, and so small a chance for them: of all outages of all boards none may cost an innocent.
LEAST_BREAKS, NO_CHANCE = 3, 1e-8
# Between two trials: so many times as long as they take, by which each break tells more.
PAUSE_S, PAUSE_TIMES = (2.0, 30.0), 25.0
CLOCK_S = 0.001


class Calm:
    """The time of connections on which nothing is tried: seconds that they stood, together, and how many broke."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.breaks = 0
        self._since: float | None = None

    @property
    def is_now(self) -> bool:
        return self._since is not None

    def begin(self, now: float) -> None:
        self._since = now

    def end(self, now: float, *, breaks: int = 0) -> None:
        self.seconds, self._since = self.seconds_at(now), None
        self.breaks += breaks

    def seconds_at(self, now: float) -> float:
        return self.seconds + (now - self._since if self._since is not None else 0.0)


class Odds:
    """Of a message, or of some that are alike. breaks: how many came while it was out."""

    def __init__(self, calm: Calm) -> None:
        self.breaks = 0
        self._out_s = CLOCK_S
        self._calm = calm
        self._since_s, self._since_breaks = calm.seconds, calm.breaks

    def broke(self, out_s: float) -> None:
        self.breaks += 1
        self._out_s += out_s

    @property
    def chance(self) -> float:
        """Were it innocent, breaks would fall into calm and trials as these share the time: at most, how likely it is
        that so many of all fall into the trials.
        """
        elsewhere = self._calm.breaks - self._since_breaks
        ways = lgamma(elsewhere + self.breaks + 1) - lgamma(elsewhere + 1) - lgamma(self.breaks + 1)
        share = self._out_s / (self._out_s + self._calm.seconds - self._since_s)
        return exp(min(0.0, ways + self.breaks * log(share)))

    @property
    def are_proof(self) -> bool:
        return self.breaks >= LEAST_BREAKS and self.chance < NO_CHANCE

    @property
    def pause_s(self) -> float:
        """Until the next trial. Where connections do not live that long, another break costs the others nothing."""
        life_s = (self._calm.seconds - self._since_s) / (self._calm.breaks - self._since_breaks + 1)
        return min(PAUSE_S[1], max(PAUSE_S[0], min(life_s, PAUSE_TIMES * self._out_s / self.breaks)))
