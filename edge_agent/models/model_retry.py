"""Tries to open the model in force again while no model can be used, so that repairing it needs no restart.

It belongs to the agent's thread; files are read in the background. `now` is in seconds of the monotonic clock.
"""

import math
from concurrent.futures import Future

from edge_agent.core.background import in_background
from edge_agent.core.config import Config
from edge_agent.core.model import Model, ModelError
from edge_agent.models.record import open_in_force

# The first and the longest pause. Each attempt may read every byte of the model.
RETRY_AFTER_S = (5.0, 60.0)


class ModelRetry:
    """Attempts nothing until `schedule` is called."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._due_at = math.inf
        self._pause_s = RETRY_AFTER_S[0]
        self._opening: Future[Model] | None = None

    def schedule(self, now: float) -> None:
        """Plans the next attempt; after each failure the pause doubles."""
        self._due_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_AFTER_S[1])

    def stop(self) -> None:
        """Ends the attempts, because a model answers."""
        self._due_at, self._pause_s, self._opening = math.inf, RETRY_AFTER_S[0], None

    def tick(self, now: float) -> Model | ModelError | None:
        """Returns the result of an attempt that has just ended. To be called several times a second."""
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
