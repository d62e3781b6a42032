"""Canaries on a running board: while nobody asks anything, the model answers them again; other answers are an alarm.

Belongs to the agent's thread, which never waits for what reads them. now: seconds of the monotonic clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from edge_agent.core.background import in_background
from edge_agent.core.model import Model
from edge_agent.core.protocol import Cancel, Cancelled, Failed, Finished, Refused
from edge_agent.models.canaries import FILE, CanaryError
from edge_agent.models.canary_file import Questions, read_questions
from edge_agent.worker.supervisor import Supervisor

log = logging.getLogger(__name__)

# After a start, which may have brought another library or another kernel.
FIRST_AFTER_S = 60.0
# When somebody had to be let by.
RETRY_S = 10.0
# Those of requests are positive.
NUMBER = -1


class CanaryWatch:
    """interval_s: from one round to the next; 0 = there is none. report: told what is wrong, None = nothing."""

    def __init__(self, interval_s: float, supervisor: Supervisor, report: Callable[[str | None], None]) -> None:
        self._interval_s = interval_s
        self._supervisor = supervisor
        self._report = report
        self._model: Model | None = None
        self._canaries: Questions | None = None
        # What is being read; None = nothing, or what there is was taken over.
        self._reading: Future[Questions | None] | None = None
        self._is_read = False
        self._due_at = 0.0
        self._index = 0
        self._differences: list[str] = []
        self._is_asking = self._is_called_off = False

    def serve(self, now: float, *, was_asked: bool) -> None:
        """Another worker is in force. was_asked: it has just answered them."""
        model = self._supervisor.model
        if self._is_asking and not self._is_called_off:
            log.warning("the worker ended at a canary: the next is asked in %.0f s", self._interval_s)
            self._due_at = now + self._interval_s
        self._is_asking = False
        if model is self._model:
            return
        self._model, self._canaries = model, None
        self._reading, self._is_read = None, False
        self._due_at = now + (self._interval_s if was_asked else min(self._interval_s, FIRST_AFTER_S))
        self._begin_round()
        self._report(None)

    def tick(self, now: float, *, is_idle: bool) -> None:
        """To be called several times a second, and whenever a request may have come."""
        if self._is_asking:
            if not is_idle and not self._is_called_off:
                self._is_called_off = True
                self._supervisor.send(Cancel(id=NUMBER))
            return
        if self._reading is not None:
            if not self._reading.done():
                return
            self._take_over(self._reading, now)
        is_due = self._interval_s > 0 and now >= self._due_at
        if not (is_due and is_idle and self._supervisor.ready is not None):
            return
        if not self._is_read:
            assert self._model is not None
            self._reading = in_background("canaries", partial(_read, self._model.source))
        elif self._canaries is not None:
            self._is_asking, self._is_called_off = True, False
            self._supervisor.send(self._canaries.run(self._index, NUMBER))

    def _take_over(self, reading: Future[Questions | None], now: float) -> None:
        self._reading = None
        try:
            self._canaries, self._is_read = reading.result(), True
        except (CanaryError, OSError) as error:
            self._read_later(str(error), now)
        except Exception:
            log.exception("canaries could not be read")
            self._read_later("a fault of the agent", now)

    def _read_later(self, fault: str, now: float) -> None:
        log.warning("canaries are not asked, read again in %.0f s: %s", self._interval_s, fault)
        self._due_at = now + self._interval_s

    def hear(self, event: Finished | Refused | Failed | Cancelled, now: float) -> None:
        """The end of what was asked under NUMBER."""
        if not self._is_asking or self._canaries is None:
            return
        self._is_asking = False
        if isinstance(event, Cancelled):
            self._due_at = now + RETRY_S
            return
        if (difference := self._canaries.difference(self._index, event)) is not None:
            self._differences.append(difference)
        self._index += 1
        if self._index == (count := len(self._canaries.canaries)):
            log.info("canaries asked=%d differing=%d", count, len(self._differences))
            self._report(_fault(self._differences, count))
            self._due_at = now + self._interval_s
            self._begin_round()

    def _begin_round(self) -> None:
        self._index, self._differences = 0, []


def _fault(differences: list[str], count: int) -> str | None:
    if not differences:
        return None
    return (
        f"{len(differences)} of {count} canaries are answered otherwise than where the model was made, as "
        f"{differences[0]}; go back with model-rollback, or check the board with `edge-agent doctor`"
    )


def _read(folder: Path) -> Questions | None:
    """None: the bundle has none. Another process renders their templates, which may take a while."""
    path = folder / FILE
    return read_questions(path) if path.is_file() else None
