"""Whether a worker holds more memory than it can need: it leaks then, and is replaced before the kernel kills it."""

from __future__ import annotations

import math

# Added to what the worker has asked for when it is ready: half of the board's free memory, within these bounds.
# Answers need less than that.
MARGIN_MB = (64.0, 256.0)
# A shorter excess is a peak, not growth.
LASTING_S = 3.0
# Between two replacements: the pause doubles, so that a bound that is too small does not stop the service.
PAUSE_S = (60.0, 3600.0)


class MemoryBound:
    """The bound of the worker in force. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        # None until the first observation of a worker.
        self.bound_mb: float | None = None
        # The excess in words; None while there is none.
        self.excess: str | None = None
        self._over_since: float | None = None
        self._may_replace_at = -math.inf
        self._pause_s = PAUSE_S[0]

    def reset(self) -> None:
        """A new worker: its first observation sets the bound."""
        self.bound_mb = self.excess = self._over_since = None

    def observe(self, used_mb: float, asked_mb: float, available_mb: float | None, now: float) -> bool:
        """Whether to replace the worker now; True once per replacement.

        used_mb: resident or swapped; asked_mb: what it may touch; available_mb: free on the board, None = unknown.
        """
        if self.bound_mb is None:
            least, most = MARGIN_MB
            self.bound_mb = asked_mb + (most if available_mb is None else min(max(available_mb / 2, least), most))
        if used_mb <= self.bound_mb:
            self.excess = self._over_since = None
            return False
        self._over_since = now if self._over_since is None else self._over_since
        if now - self._over_since < LASTING_S:
            return False
        self.excess = f"the worker holds {used_mb:.0f} MB and should need at most {self.bound_mb:.0f} MB"
        if now < self._may_replace_at:
            return False
        if now > self._may_replace_at + PAUSE_S[1]:
            self._pause_s = PAUSE_S[0]
        self._may_replace_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_S[1])
        return True
