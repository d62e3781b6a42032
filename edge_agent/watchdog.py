"""Whether everything that the agent is made of still makes progress: only then systemd's watchdog is fed.

The agent's own thread asks, so that it is alive goes without saying. A part that stands still for longer than it can
be expected to is not healed from inside: systemd then ends the service and starts it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A worker that owes an answer and says nothing is killed by the agent before that.
WORKER_SILENCE_S = 180.0
# What hangs in a broken disk or driver cannot be killed.
WORKER_DYING_S = 60.0
# The monitor begins with a sensor several times a second, and goes past one that hangs.
MONITOR_SILENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """network: by connection, whether its thread is at work. worker_silent_s: None = no worker is ready.

    worker_dying_s: since one that is still there was killed; None = there is none. is_worker_coming: one loads, or
    will be started. monitor_silent_s: since it last went on to a sensor, or was done with all.
    """

    network: Mapping[str, bool]
    worker_silent_s: float | None
    worker_dying_s: float | None
    is_worker_coming: bool
    monitor_silent_s: float


def stalled(vitals: Vitals) -> str | None:
    """Which part stands still; None = all make progress."""
    for name, is_at_work in vitals.network.items():
        if not is_at_work:
            return f"the network thread of {name} has ended or stands still"
    if vitals.worker_silent_s is None and not vitals.is_worker_coming:
        return "there is no worker, and none to come"
    if vitals.worker_silent_s is not None and vitals.worker_silent_s > WORKER_SILENCE_S:
        return f"the worker has said nothing for {vitals.worker_silent_s:.0f} s"
    if vitals.worker_dying_s is not None and vitals.worker_dying_s > WORKER_DYING_S:
        return f"the worker was killed {vitals.worker_dying_s:.0f} s ago and is still there"
    if vitals.monitor_silent_s > MONITOR_SILENCE_S:
        return f"the board was not read for {vitals.monitor_silent_s:.0f} s"
    return None
