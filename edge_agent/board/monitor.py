"""Reads all sensors of a board once a second, in a thread of its own: a sensor that hangs holds nobody else up.

There is no hand-over per sensor. The thread notes where it is; who supervises it sees that it stays there, and lets a
new thread go on without that sensor. The old one ends when its read returns at last.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_agent.board.board import Board
from edge_agent.board.reading import BoardReading
from edge_agent.board.sensor import Failure, Findings, Sensor

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
HANGS_AFTER_S = 2.0
# An older reading says nothing about the board now. Several sensors may hang for 2 s each before a pass is done.
STALE_AFTER_S = 10.0
# For who reads once: long enough for counters of energy and of time to have gone on.
_BETWEEN_PASSES_S = 0.2
_SUPERVISED_EVERY_S = 0.05
_READ_ONCE_S = 60.0
# A sensor that fails is left alone for 1, 2, 4, … passes.
LONGEST_REST = 60


@dataclass(slots=True)
class _Failing:
    """rest: passes for which it is left alone."""

    failure: Failure
    times: int
    rest: int


class Monitor:
    """Calls `deliver` with each reading, in its thread. `supervise` is to be called several times a second."""

    def __init__(
        self, board: Board, deliver: Callable[[BoardReading], None], *, interval_s: float = INTERVAL_S
    ) -> None:
        self._board = board
        self._deliver = deliver
        self._interval_s = interval_s
        self._is_stopped = threading.Event()
        # When it last began with a sensor, or was done with all of them; seconds of the monotonic clock.
        self.advanced_at = time.monotonic()
        self._latest = BoardReading()
        self._latest_at: float | None = None
        # Guards what follows; all else is the current thread's alone.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._at: tuple[Sensor, float] | None = None
        self._failing: dict[str, _Failing] = {}
        self._hanging: set[str] = set()
        self._has_worked: set[str] = set()

    def start(self) -> None:
        with self._lock:
            self._start_thread()

    def stop(self) -> None:
        """Waits for nothing: a thread whose sensor hangs ends with the process."""
        self._is_stopped.set()

    def latest(self, now: float) -> BoardReading:
        """The latest reading; only an error if it is older than STALE_AFTER_S."""
        if self._latest_at is None or now - self._latest_at <= STALE_AFTER_S:
            return self._latest
        return BoardReading(errors={"board": f"not read for more than {STALE_AFTER_S:g} s"})

    def supervise(self, now: float) -> None:
        """now: of time.monotonic()."""
        with self._lock:
            if self._at is None or now - self._at[1] <= HANGS_AFTER_S:
                return
            sensor, self._at = self._at[0], None
            self._hanging.add(sensor.key)
            self._failed(
                sensor, Failure(sensor.key, sensor.name, f"hangs for more than {HANGS_AFTER_S:g} s", is_offline=False)
            )
            self._start_thread()
        log.warning("a sensor of the board hangs, the others are read without it: %s", sensor.name)

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="board-monitor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_stopped.is_set():
            next_at = time.monotonic() + self._interval_s
            try:
                reading = self._read()
                if reading is None:
                    return
                self.advanced_at = time.monotonic()
                self._latest, self._latest_at = reading, self.advanced_at
                self._deliver(reading)
            except Exception:
                # Without this thread nobody would know of the heat.
                log.exception("the board could not be read")
            self._is_stopped.wait(max(0.0, next_at - time.monotonic()))

    def _read(self) -> BoardReading | None:
        """One pass; None = another thread has taken over."""
        findings = Findings()
        for sensor in self._board.sensors():
            if not self._enter(sensor, findings):
                continue
            failure = findings.take(sensor)
            if not self._leave(sensor, failure, findings):
                return None
        return self._board.compose(findings)

    def _enter(self, sensor: Sensor, findings: Findings) -> bool:
        """Whether it is this sensor's turn."""
        with self._lock:
            failing = self._failing.get(sensor.key)
            if failing is not None and failing.rest > 0:
                # The rest of one that hangs begins when its read returns.
                failing.rest -= sensor.key not in self._hanging
                findings.note(failing.failure)
                return False
            self.advanced_at = time.monotonic()
            self._at = sensor, self.advanced_at
            return True

    def _leave(self, sensor: Sensor, failure: Failure | None, findings: Findings) -> bool:
        """False = it hung, and another thread has gone on."""
        with self._lock:
            if self._thread is not threading.current_thread():
                self._hanging.discard(sensor.key)
                return False
            self._at = None
            if failure is not None:
                self._failed(sensor, failure)
                if sensor.key in self._has_worked:
                    findings.offline.discard(failure.name)
                return True
            self._failing.pop(sensor.key, None)
            if sensor.key in findings.parts:
                self._has_worked.add(sensor.key)
            return True

    def _failed(self, sensor: Sensor, failure: Failure) -> None:
        before = self._failing.get(sensor.key)
        times = before.times + 1 if before else 1
        is_offline = failure.is_offline and sensor.key not in self._has_worked
        failure = replace(failure, is_offline=is_offline)
        self._failing[sensor.key] = _Failing(failure, times, min(1 << min(times - 1, 10), LONGEST_REST))


def read_once(board: Board) -> BoardReading:
    """For who runs no monitor: the second of two passes, since rates take two.

    A sensor that hangs costs HANGS_AFTER_S and stands in the errors; so does the board if it is not read in a minute.
    """
    readings: queue.SimpleQueue[BoardReading] = queue.SimpleQueue()
    monitor = Monitor(board, readings.put, interval_s=_BETWEEN_PASSES_S)
    give_up_at = time.monotonic() + _READ_ONCE_S
    passes: list[BoardReading] = []
    monitor.start()
    try:
        while len(passes) < 2:
            if time.monotonic() > give_up_at:
                return BoardReading(errors={"board": f"not read within {_READ_ONCE_S:g} s"})
            monitor.supervise(time.monotonic())
            with contextlib.suppress(queue.Empty):
                passes.append(readings.get(timeout=_SUPERVISED_EVERY_S))
    finally:
        monitor.stop()
    return passes[-1]
