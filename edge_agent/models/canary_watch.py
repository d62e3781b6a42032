"""The model in force is asked its canaries again while the board is idle; differing answers raise an alarm.

Belongs to the agent's thread; the canaries are read in the background. now: seconds of the monotonic clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from edge_agent.core.background import in_background
from edge_agent.core.model import Model
from edge_agent.core.protocol import Cancelled
from edge_agent.models.canaries import FILE, CanaryError
from edge_agent.models.canary_file import CanaryRound, Questions, read_questions
from edge_agent.worker.supervisor import Answer, Supervisor

log = logging.getLogger(__name__)

# After the agent's start, which may have brought another library or kernel.
FIRST_AFTER_S = 60.0
# After a canary was cancelled for a request.
RETRY_S = 10.0


class CanaryWatch:
    """Asks a round of canaries every `interval_s`; 0 = never. report: gets the fault of a round, None = none."""

    def __init__(self, interval_s: float, supervisor: Supervisor, report: Callable[[str | None], None]) -> None:
        self._interval_s = interval_s
        self._supervisor = supervisor
        self._report = report
        self._model: Model | None = None
        self._due_at = 0.0
        # One step after the other: the file is read, then its canaries are asked.
        self._reading: Future[Questions | None] | None = None
        self._round: CanaryRound | None = None
        self._is_asking = self._is_cancelled = False

    def worker_ready(self, now: float, *, was_asked: bool) -> None:
        """A new worker answers. was_asked: a switch has just asked its canaries."""
        model = self._supervisor.model
        if self._is_asking and not self._is_cancelled:
            log.warning("the worker ended at a canary: the next is asked in %.0f s", self._interval_s)
            self._due_at = now + self._interval_s
        self._is_asking = False
        if model is self._model:
            return
        self._model = model
        self._reading = self._round = None
        self._due_at = now + (self._interval_s if was_asked else min(self._interval_s, FIRST_AFTER_S))
        self._report(None)

    def tick(self, now: float, *, is_idle: bool) -> None:
        """To be called several times a second, and after each event that may have brought a request."""
        if self._is_asking:
            if not is_idle and not self._is_cancelled:
                self._is_cancelled = True
                self._supervisor.cancel_canary()
            return
        if self._reading is not None:
            if not self._reading.done():
                return
            self._start_round(self._reading, now)
        if now >= self._due_at and is_idle and self._interval_s > 0 and self._supervisor.ready is not None:
            self._ask_next()

    def _ask_next(self) -> None:
        if self._round is None:
            self._reading = in_background("canaries", partial(_read, self._supervisor.model.source))
        elif (run := self._round.next_run) is not None:
            self._is_asking, self._is_cancelled = True, False
            self._supervisor.ask_canary(run)

    def _start_round(self, reading: Future[Questions | None], now: float) -> None:
        self._reading = None
        fault = None
        try:
            if (canaries := reading.result()) is not None:
                self._round = CanaryRound(canaries)
                return
        except (CanaryError, OSError) as error:
            fault = str(error)
        except Exception:
            log.exception("canaries could not be read")
            fault = "a fault of the agent"
        self._due_at = now + self._interval_s
        if fault is not None:
            log.warning("canaries are not asked, they are read again in %.0f s: %s", self._interval_s, fault)

    def receive(self, answer: Answer, now: float) -> None:
        """The end of the canary that runs."""
        if not self._is_asking or self._round is None:
            return
        self._is_asking = False
        if isinstance(answer, Cancelled):
            self._due_at = now + RETRY_S
            return
        self._round.add(answer)
        if self._round.next_run is None:
            log.info("canaries asked=%d differing=%d", self._round.asked, len(self._round.differences))
            self._report(_fault(self._round))
            self._due_at, self._round = now + self._interval_s, None


def _fault(done: CanaryRound) -> str | None:
    if not done.differences:
        return None
    return (
        f"{len(done.differences)} of {done.asked} canaries are answered otherwise than where the model was made, as "
        f"{done.differences[0]}; go back with model-rollback, or check the board with `edge-agent doctor`"
    )


def _read(folder: Path) -> Questions | None:
    """None: the bundle has none."""
    path = folder / FILE
    return read_questions(path) if path.is_file() else None
