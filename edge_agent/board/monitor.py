"""Reads all sensors of a board once a second in its own thread, so that a sensor that hangs delays no other part.

The thread notes which sensor it reads. When it stays there, `replace_hung_thread` starts another thread, which goes on
without that sensor. The old thread ends when its read returns at last; the sensor is read again then.
"""

import logging
import threading
import time
from collections.abc import Callable

from edge_agent.board.board import Board
from edge_agent.board.reading import BoardReading
from edge_agent.board.sensor import Failure, Sensor, SensorPass
from edge_agent.core.background import in_background

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
HANGS_AFTER_S = 2.0
# An older reading says nothing about the board now. Several sensors may hang, 2 s each, before a pass is done.
STALE_AFTER_S = 10.0
# For `read_with_rates`: long enough for counters of energy and time to advance, and for any board.
_BETWEEN_READINGS_S = 0.2
_READ_TIMEOUT_S = 10.0


class Monitor:
    """Calls `deliver` with each reading, in its thread. Call `replace_hung_thread` several times a second."""

    def __init__(
        self, board: Board, deliver: Callable[[BoardReading], None], *, interval_s: float = INTERVAL_S
    ) -> None:
        self._board = board
        self._deliver = deliver
        self._interval_s = interval_s
        self._is_stopped = threading.Event()
        # When the latest pass ended, in seconds of the monotonic clock.
        self.advanced_at = time.monotonic()
        self._latest = BoardReading()
        # Guards the thread, the sensor that it is reading and since when, and the sensors that hang.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._in_progress: tuple[Sensor, float] | None = None
        self._hanging: dict[str, Failure] = {}

    def start(self) -> None:
        with self._lock:
            self._start_thread()

    def stop(self) -> None:
        """Does not wait: a thread whose sensor hangs ends with the process."""
        self._is_stopped.set()

    def latest(self, now: float) -> BoardReading:
        """The latest reading; only an error if it is older than STALE_AFTER_S."""
        if now - self.advanced_at <= STALE_AFTER_S:
            return self._latest
        return BoardReading(errors={"board": f"not read for more than {STALE_AFTER_S:g} s"})

    def replace_hung_thread(self, now: float) -> None:
        """Goes on without a sensor that hangs. `now` is in seconds of the monotonic clock."""
        with self._lock:
            if self._in_progress is None or now - self._in_progress[1] <= HANGS_AFTER_S:
                return
            sensor, self._in_progress = self._in_progress[0], None
            self._hanging[sensor.key] = Failure(sensor.name, f"hangs for more than {HANGS_AFTER_S:g} s")
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
                self._latest, self.advanced_at = reading, time.monotonic()
                self._deliver(reading)
            except Exception:
                # Without this thread the heat of the board is unknown.
                log.exception("the board could not be read")
            self._is_stopped.wait(max(0.0, next_at - time.monotonic()))

    def _read(self) -> BoardReading | None:
        """The reading of one pass; None if this thread was replaced by another one."""
        results = SensorPass()
        for sensor in self._board.sensors():
            with self._lock:
                if sensor.key in self._hanging:
                    results.failures[sensor.key] = self._hanging[sensor.key]
                    continue
                self._in_progress = sensor, time.monotonic()
            results.read(sensor)
            with self._lock:
                if self._thread is not threading.current_thread():
                    self._hanging.pop(sensor.key, None)
                    return None
                self._in_progress = None
        return self._board.compose(results)


def read_with_rates(board: Board) -> BoardReading:
    """The second of two readings, because rates need two; for programs that run no monitor."""

    def read() -> BoardReading:
        board.read()
        threading.Event().wait(_BETWEEN_READINGS_S)
        return board.read()

    try:
        return in_background("board", read).result(_READ_TIMEOUT_S)
    except TimeoutError:
        return BoardReading(errors={"board": f"a sensor hangs for more than {_READ_TIMEOUT_S:g} s"})
