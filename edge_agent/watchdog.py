"""Whether all parts of the agent make progress: only then systemd's watchdog is fed.

The agent's own thread asks, so it makes progress itself. A part that stands still too long cannot be repaired from
inside: systemd ends the service and starts it again.
"""

import logging
from collections.abc import Callable, Mapping

from edge_agent.board.systemd_notify import notify, watchdog_interval_s

log = logging.getLogger(__name__)

# The agent kills a silent worker before this.
WORKER_SILENCE_S = 180.0
# The monitor reads the board once a second, and waits 2 s for each sensor that begins to hang.
MONITOR_SILENCE_S = 30.0


class Watchdog:
    """Feeds systemd's watchdog, where there is one.

    Args:
        note_end: Keeps for the next run why systemd ends this one; None takes that back.
    """

    def __init__(self, note_end: Callable[[str | None], None]) -> None:
        self._note_end = note_end
        self._interval_s = watchdog_interval_s()
        self._feed_at = 0.0
        self._fault: str | None = None

    def tick(self, find_fault: Callable[[], str | None], now: float) -> None:
        """Feeds it unless there is a fault, three times as often as systemd expects, as one step may be late."""
        if self._interval_s is None or now < self._feed_at:
            return
        self._feed_at = now + self._interval_s / 3
        fault = find_fault()
        if fault is None:
            notify("WATCHDOG=1")
        elif fault != self._fault:
            log.error("the watchdog is not fed: %s", fault)
        if (fault is None) != (self._fault is None):
            self._note_end(fault and f"the watchdog was not fed: {fault}")
        self._fault = fault


def stalled_part(
    *, network: Mapping[str, bool], worker_silent_s: float | None, has_or_expects_worker: bool, monitor_silent_s: float
) -> str | None:
    """Which part stands still, in words; None if all make progress.

    Args:
        network: By connection, whether its thread works.
        worker_silent_s: None while no worker is ready.
        has_or_expects_worker: Whether a worker runs or loads, or will be started.
        monitor_silent_s: The time since the monitor last read the board.
    """
    for name, is_alive in network.items():
        if not is_alive:
            return f"the network thread of {name} has ended or hangs"
    if worker_silent_s is None and not has_or_expects_worker:
        return "there is no worker, and none will be started"
    if worker_silent_s is not None and worker_silent_s > WORKER_SILENCE_S:
        return f"the worker has been silent for {worker_silent_s:.0f} s"
    if monitor_silent_s > MONITOR_SILENCE_S:
        return f"the board has not been read for {monitor_silent_s:.0f} s"
    return None
