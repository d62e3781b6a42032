"""The model in force is asked its canaries again while the board is idle; differing answers raise an alarm.

Belongs to the agent's thread; the canaries are read in the background. `now` is in seconds of the monotonic clock.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from edge_agent.core.background import in_background
from edge_agent.core.model import Model
from edge_agent.core.pipe import Cancelled, WorkerAnswer
from edge_agent.models.canaries import RenderedCanaries, find_canaries
from edge_agent.worker.supervisor import Supervisor

log = logging.getLogger(__name__)

# After the agent's start, which may have brought another library or kernel.
FIRST_AFTER_S = 60.0
# After a canary was cancelled for a request.
RETRY_S = 10.0


class CanaryWatch:
    """Asks canaries one at a time, because requests that run side by side may be rounded differently."""

    def __init__(self, interval_s: float, supervisor: Supervisor, report: Callable[[str | None], None]) -> None:
        """
        Args:
            interval_s: From one round of canaries to the next; 0 turns the watch off.
            report: Gets the fault of a round, "" if there is none, and None for a model that was not asked yet.
        """
        self._interval_s = interval_s
        self._supervisor = supervisor
        self._report = report
        self._model: Model | None = None
        self._due_at = 0.0
        self._is_asking = self._is_cancelled = False
        # The round: its canaries, how many of them were asked, and what differed.
        self._reading: Future[RenderedCanaries | None] | None = None
        self._asked = 0
        self._differences: list[str] = []

    def on_worker_ready(self, now: float, *, was_asked: bool) -> None:
        """To be called when a new worker answers. `was_asked` says that a switch has just asked its canaries."""
        model = self._supervisor.model
        if self._is_asking and not self._is_cancelled:
            log.warning("the worker ended at a canary: the next is asked in %.0f s", self._interval_s)
            self._due_at = now + self._interval_s
        self._is_asking = False
        if model is self._model:
            return
        self._model = model
        self._end_round(now + (self._interval_s if was_asked else min(self._interval_s, FIRST_AFTER_S)))
        self._report("" if was_asked else None)

    def tick(self, now: float, *, is_idle: bool) -> None:
        """To be called several times a second, and after each event that may have brought a request."""
        if self._is_asking:
            if not is_idle and not self._is_cancelled:
                self._is_cancelled = True
                self._supervisor.cancel_canary()
        elif now >= self._due_at and is_idle and self._interval_s > 0 and self._supervisor.ready is not None:
            if self._reading is None:
                self._reading = in_background("canaries", partial(find_canaries, self._supervisor.model.source))
            elif self._reading.done():
                self._ask_next(self._reading, now)

    def _ask_next(self, reading: Future[RenderedCanaries | None], now: float) -> None:
        if (error := reading.exception()) is not None:
            log.warning("canaries are not asked, they are read again in %.0f s: %s", self._interval_s, error)
        canaries = None if error else reading.result()
        if canaries is None:
            self._end_round(now + self._interval_s)
            return
        self._is_asking, self._is_cancelled = True, False
        self._supervisor.ask_canary(canaries.requests[self._asked])

    def receive(self, answer: WorkerAnswer, now: float) -> None:
        """Takes the end of the canary that runs."""
        canaries = self._reading.result() if self._is_asking and self._reading is not None else None
        if canaries is None:
            return
        self._is_asking = False
        if isinstance(answer, Cancelled):
            self._due_at = now + RETRY_S
            return
        if difference := canaries.answers.difference(self._asked, answer):
            self._differences.append(difference)
        self._asked += 1
        if self._asked == len(canaries.requests):
            log.info("canaries asked=%d differing=%d", self._asked, len(self._differences))
            self._report(_round_fault(self._differences, self._asked))
            self._end_round(now + self._interval_s)

    def _end_round(self, due_at: float) -> None:
        self._due_at = due_at
        self._reading, self._asked, self._differences = None, 0, []


def _round_fault(differences: list[str], asked: int) -> str:
    if not differences:
        return ""
    return (
        f"{len(differences)} of {asked} canaries are answered differently than where the model was made, for example "
        f"{differences[0]}; go back with model-rollback, or check the board with `edge-agent doctor`"
    )
