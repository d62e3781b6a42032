"""While no model can be used, the one in force is opened again and again: it may be repaired without a restart.

Belongs to the agent's thread; files are read in the background. now: seconds of the monotonic clock.
"""

import math
from concurrent.futures import Future

from edge_agent.core.background import in_background
from edge_agent.core.config import Config
from edge_agent.core.model import Model, ModelError
from edge_agent.models.record import open_in_force

# Shortest and longest pause: each attempt may read every byte of the model.
RETRY_AFTER_S = (5.0, 60.0)


class ModelRetry:
    """Rests until `schedule`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._due_at = math.inf
        self._pause_s = RETRY_AFTER_S[0]
        self._opening: Future[Model] | None = None

    def schedule(self, now: float) -> None:
        """Another attempt failed, or the first one did: the next follows after a growing pause."""
        self._due_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_AFTER_S[1])

    def stop(self) -> None:
        """A model answers."""
        self._due_at, self._pause_s, self._opening = math.inf, RETRY_AFTER_S[0], None

    def tick(self, now: float) -> Model | ModelError | None:
        """To be called several times a second: what became of an attempt that has just ended."""
        if self._opening is None:
            if now >= self._due_at:
                self._due_at = math.inf
                self._opening = in_background("model-retry", lambda: open_in_force(self._config))
        elif self._opening.done():
            opening, self._opening = self._opening, None
            try:
                return opening.result()
            except ModelError as error:
                return error
        return None
