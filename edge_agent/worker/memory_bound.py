"""PURE. Whether a worker has outgrown the memory that it can need, and is better replaced than waited for.

It must leak then: between two requests the agent does what the kernel would do in the midst of one.
"""

from __future__ import annotations

import math

# Beside what it has asked for when it is ready: half of what the board has left, within these MB. What answers need
# grows by less, see `python -m rigs.quality.growth`.
MARGIN_MB = (64.0, 256.0)
# A moment's need is no growth.
LASTING_S = 3.0
# The least time between two replacements, and the most, for a bound that is too small must not keep anybody waiting.
PAUSE_S = (60.0, 3600.0)


class WorkerMemory:
    """Of the worker in force. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        # None = not known yet.
        self.bound_mb: float | None = None
        # What is too much, in words; None = nothing is.
        self.excess: str | None = None
        self._since: float | None = None
        self._may_replace_at = -math.inf
        self._pause_s = PAUSE_S[0]

    def another(self) -> None:
        """A worker that is new: what is observed next is what it needs."""
        self.bound_mb = self.excess = self._since = None

    def observe(self, used_mb: float, asked_mb: float, available_mb: float | None, now: float) -> bool:
        """Whether the worker should be replaced now; that is asked for once.

        used_mb: what it holds, swapped or not; asked_mb: what it may touch. available_mb: of the board, None = unknown.
        """
        if self.bound_mb is None:
            least, most = MARGIN_MB
            self.bound_mb = asked_mb + (most if available_mb is None else min(max(available_mb / 2, least), most))
        if used_mb <= self.bound_mb:
            self.excess = self._since = None
            return False
        self._since = now if self._since is None else self._since
        if now - self._since < LASTING_S:
            return False
        self.excess = f"the worker holds {used_mb:.0f} MB, {self.bound_mb:.0f} MB are all that it should need"
        if now < self._may_replace_at:
            return False
        if now > self._may_replace_at + PAUSE_S[1]:
            self._pause_s = PAUSE_S[0]
        self._may_replace_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_S[1])
        return True
