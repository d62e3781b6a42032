"""PURE. How a board is, and what is not as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.tools.watch.documents import Health, State
from edge_agent.tools.watch.row import ActiveAlarm, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that is known of a board.

    health: the last one, however old; is_fresh: whether it may be shown as what is. is_contradicted: `state` holds an
    old will, but the board lives. is_new: first heard of just now. unreadable: a reason for each topic.
    """

    state: State | None
    is_contradicted: bool
    is_flapping: bool
    is_new: bool
    health: Health | None
    health_age_s: float | None
    is_fresh: bool
    interval_s: float
    alarms: tuple[ActiveAlarm, ...]
    unreadable: dict[str, str]

    @property
    def is_starting(self) -> bool:
        return self.state is not None and (self.state.name, self.state.reason) == ("offline", "starting")

    @property
    def is_speaking(self) -> bool:
        """Whether, by its state, fresh health is to be expected."""
        if self.state is None or self.is_contradicted or self.is_starting:
            return True
        return self.state.name in ("online", "draining")

    @property
    def figures(self) -> Health | None:
        return self.health if self.is_speaking and self.is_fresh else None


def level_of(known: Known) -> Level:
    name = known.state.name if known.state else None
    figures = known.figures
    if not known.is_speaking:
        return Level.STOPPED if name == "stopped" else Level.OFFLINE
    if figures is None:
        is_silent = known.health is not None or (known.state is not None and not known.is_new)
        return Level.STALE if is_silent else Level.UNKNOWN
    if known.is_starting:
        return Level.STARTING
    if figures.overall == "critical" or any(active.alarm.severity == "critical" for active in known.alarms):
        return Level.CRITICAL
    if name == "draining":
        return Level.DRAINING
    is_limited = figures.is_throttled or figures.is_undervolted
    if figures.overall == "degraded" or known.alarms or is_limited or known.is_flapping or known.unreadable:
        return Level.DEGRADED
    return Level.UNKNOWN if figures.overall is None or name is None else Level.OK


def why(known: Known, level: Level) -> Iterator[str]:
    """A sentence each, the most telling first; alarms have words of their own."""
    if known.state is None and "state" not in known.unreadable:
        yield "nothing on its topic state"
    elif known.is_contradicted:
        yield "its topic state still holds the will of an older session"
    elif known.state and level in (Level.OFFLINE, Level.STOPPED, Level.DRAINING) and known.state.reason:
        yield known.state.reason
    if level in (Level.STALE, Level.OFFLINE):
        yield _silence(known, level)
    if known.figures is not None:
        yield from _troubles(known.figures, known, level)
    if known.is_flapping:
        yield "a new session every few seconds: an unstable network, or two boards of this name"
    for topic, reason in known.unreadable.items():
        yield f"{topic} cannot be read: {reason}"


def _silence(known: Known, level: Level) -> str:
    health, age_s = known.health, known.health_age_s
    if health is None:
        return "no health on the bus"
    told = [
        "" if health.soc_c is None else f"{health.soc_c:.0f} °C",
        "" if health.queue_depth is None else f"{health.queue_depth} waiting",
        *health.reasons,
    ]
    words = ", ".join(part for part in told if part) or "nothing of note"
    if age_s is None:
        return f"its last health is of an unknown age, as its clock is not this machine's: {words}"
    due = f", due every {duration(known.interval_s)}" if level is Level.STALE else ""
    return f"last health {duration(age_s)} ago{due}: {words}"


def _troubles(figures: Health, known: Known, level: Level) -> Iterator[str]:
    if level is Level.STARTING and figures.uptime_s is not None:
        restarts = f", worker restarts: {figures.worker_restarts}" if figures.worker_restarts else ""
        yield f"since {duration(figures.uptime_s)}{restarts}"
    told = {level.name.lower(), *(active.name for active in known.alarms)}
    told |= {"sensor-errors"} if figures.sensor_errors else set()
    if reasons := [reason for reason in figures.reasons if reason not in told]:
        yield ", ".join(reasons)
    if figures.is_throttled and len(figures.throttle_causes) > 1:
        yield f"throttled: {', '.join(figures.throttle_causes)}"
    if figures.governor_level not in (None, "normal"):
        yield f"governor {figures.governor_level}" + (f": {figures.governor_reason}" if figures.governor_reason else "")
    if figures.sensor_errors:
        yield f"sensors that cannot be read: {', '.join(figures.sensor_errors)}"


def duration(seconds: float) -> str:
    """`0.5 s`, `45 s`, `12 min`, `5 h`, `3 d`."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < 120 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
