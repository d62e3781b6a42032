"""One machine: its values, each with its window, and the triggers that make a reading of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.core.signal_tables import MOMENTARY, SignalsTable, TriggerTable, window_name
from edge_agent.signals.source import Update
from edge_agent.signals.window import Window

EVERY = "every"
# Causes that are no longer true once a message has come, even one without the value.
_NOT_YET, _SINCE_START = "no message yet", "no message since the agent was started"
SINCE_LOST = "no message since the connection was lost"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a task is asked about a machine."""

    table: str
    machine: str
    trigger: str
    at: float
    input: dict[str, dict[str, float | None]]
    lacking: tuple[str, ...] = ()  # The values that prevented it, each with the cause; `input` is then empty.
    is_repeated: bool = False  # Whether the one before it could not be made either.


class Track:
    """One value of one machine, by sample and hold, until `max_age_s` makes it stale."""

    __slots__ = (
        *("_cause", "_is_seeded", "_max_age_s", "_passed_over", "_settled_at"),
        *("arrived_at", "reference", "value", "was_above", "was_below", "window"),
    )

    def __init__(self, window_s: float, max_age_s: float) -> None:
        self.value: float | None = None  # None while it is missing.
        self.arrived_at: float | None = None
        self.window = Window(window_s)
        self.reference: float | None = None  # The centre of the dead band, from which a change is measured.
        self.was_above = self.was_below = False  # It has crossed the limit, and not yet returned by the hysteresis.
        self._max_age_s = max_age_s
        self._is_seeded = False  # Whether the value is that of a retained message, whose age is unknown.
        self._cause = _NOT_YET  # Why it is missing; empty if it is stale.
        self._passed_over = ""  # What was wrong with the last message that left it as it was.
        self._settled_at = -math.inf  # The window is complete up to this time.

    def settle(self, now: float) -> None:
        """Brings the window up to now, as the value has held until now, or until it became stale."""
        if self.value is not None and self.arrived_at is not None:
            expires_at = self.arrived_at + self._max_age_s
            if (end := min(now, expires_at)) > self._settled_at:
                self.window.hold(self.value, self._settled_at, end)
            if now >= expires_at:
                self.value, self._cause = None, ""
        self._settled_at = now

    def receive(self, value: float | None, now: float, cause: str = "") -> None:
        """Takes the value that a message has; None if the message says that there is none, for this cause."""
        self.settle(now)
        self.value, self.arrived_at, self._cause, self._passed_over = value, now, cause, ""
        self._is_seeded = False
        if value is not None:
            self.window.sample(value, now)

    def pass_over(self, cause: str) -> None:
        """Notes that a message left it as it was, for this cause."""
        self._passed_over = cause

    def latest(self, now: float) -> tuple[float | None, float | None]:
        """The value, None while missing, and its age in seconds, None while unknown. Changes no window."""
        is_held = self.arrived_at is not None and now - self.arrived_at < self._max_age_s
        age_s = self.age_s(now)
        return _rounded(self.value) if is_held else None, None if age_s is None else round(age_s, 1)

    def age_s(self, now: float) -> float | None:
        """Seconds since its last message; None before the first one, and while the value is that of a retained one."""
        return None if self.arrived_at is None or self._is_seeded else now - self.arrived_at

    def seed(self, value: float | None, now: float, cause: str) -> None:
        """Takes a retained value unless a newer one is known. It holds from now on, but is no sample of the window."""
        if self.value is None:
            self.settle(now)
            self.value, self.arrived_at, self._cause, self._is_seeded = value, now, cause, True
            self.reference = value if self.reference is None else self.reference

    def invalidate(self, now: float, cause: str) -> None:
        """Makes the value missing from now on, for this cause."""
        self.settle(now)
        if self.value is not None:
            self.value, self._cause, self._passed_over = None, cause, ""

    def why_lacking(self, now: float, min_coverage: float) -> str:
        """Why it prevents a reading now, in words for people."""
        if self.value is not None:
            percent = math.floor(100 * self.window.coverage(now))
            return f"known for only {percent} % of the window (min_coverage {min_coverage:g})"
        last = f"its last message {self._passed_over}" if self._passed_over else ""
        cause = last if last and self._cause in {_NOT_YET, _SINCE_START, SINCE_LOST} else self._cause
        if self.arrived_at is None:
            return f"missing: {cause}"
        age_s = now - self.arrived_at
        least = "at least " if self._is_seeded else ""
        since = f"{'no number' if last else 'silent'} for {least}{age_s:.0f} s (max_age_s {self._max_age_s:g})"
        if not cause:
            return f"{since}: {last}" if last else since
        return f"missing: {cause}" + (f"; {since}" if age_s > self._max_age_s else "")

    def restore(self, settled_at: float) -> None:
        self._settled_at, self._cause = settled_at, _SINCE_START


class Machine:
    def __init__(self, table: str, name: str, config: SignalsTable, now: float) -> None:
        self.name = name
        self.tracks = {value: Track(config.window_s, config.max_age_of(value)) for value in config.values}
        self.heard_at = now  # When its last message came.
        self.read_at = -math.inf  # When its last reading was made.
        self.recorded_at = -math.inf  # When a reading was last kept as a row.
        self.was_complete = False  # Whether the last reading that was due could be made.
        self.complete_by = math.inf  # Until then it may lack values without a fault; -inf once it had a reading.
        self.waiting_trigger: str | None = None  # A trigger that came within `min_gap_s` of the last reading.
        self._table = table
        self._config = config

    def receive(self, update: Update, now: float) -> str | None:
        """Takes the values of one message. Returns the trigger that fired, if any."""
        self.heard_at = now
        fired = None
        for name in update.causes.keys() - update.values.keys():
            self.tracks[name].pass_over(update.causes[name])
        for name, value in update.values.items():
            track = self.tracks[name]
            track.receive(value, now, update.causes.get(name, update.cause))
            if value is not None:
                trigger = _fire(name, track, value, self._config.trigger)
                fired = fired or trigger
        return fired

    def lacking(self, now: float) -> list[str]:
        """The values that prevent a reading: required ones that are missing or cover too little of their window."""
        lacking = []
        for name, value in self._config.values.items():
            track = self.tracks[name]
            track.settle(now)
            if value.optional:
                continue
            needs_window = not MOMENTARY.issuperset(self._config.features_of(name))
            if track.value is None or (needs_window and track.window.coverage(now) < self._config.min_coverage):
                lacking.append(name)
        return lacking

    def read(self, trigger: str, now: float) -> Reading:
        """Makes a reading. Call it only if nothing is lacking."""
        self.read_at, self.waiting_trigger, self.was_complete = now, None, True
        self.complete_by = -math.inf
        return Reading(self._table, self.name, trigger, now, self.input(now))

    @property
    def had_reading(self) -> bool:
        """Whether it ever had one, also in an earlier process."""
        return self.read_at > 0

    def incomplete_reading(self, lacking: Sequence[str], trigger: str, now: float) -> Reading:
        """Stands for a reading that cannot be made, so that it is refused with the reason."""
        is_repeated, self.was_complete = not self.was_complete, False
        causes = (f"{name}: {self.tracks[name].why_lacking(now, self._config.min_coverage)}" for name in lacking)
        return Reading(self._table, self.name, trigger, now, {}, tuple(causes), is_repeated)

    def input(self, now: float) -> dict[str, dict[str, float | None]]:
        return {name: self._features_of(name, now) for name in self.tracks}

    def _features_of(self, name: str, now: float) -> dict[str, float | None]:
        track, config = self.tracks[name], self._config
        known: dict[str, Any] = {"last": track.value}
        known["age_s"] = None if track.value is None else track.age_s(now)
        features = config.features_of(name)
        if not MOMENTARY.issuperset(features):
            window = window_name(config.window_s)
            known |= {f"{feature}_{window}": figure for feature, figure in track.window.features(now).items()}
        return {field: _rounded(known[field]) for field in config.fields_of(name)}


def _fire(name: str, track: Track, value: float, trigger: TriggerTable) -> str | None:
    """The trigger that a new value fires, in words such as `vib above 7.1`; None if it fires none."""
    fired = None
    if name in trigger.on_change:
        if track.reference is None:
            track.reference = value
        elif abs(value - track.reference) > trigger.dead_band.get(name, 0.0):
            track.reference, fired = value, f"{name} changed"
    return_by = trigger.hysteresis.get(name, 0.0)
    if (limit := trigger.above.get(name)) is not None:
        if value > limit and not track.was_above:
            track.was_above, fired = True, f"{name} above {limit:g}"
        elif value <= limit - return_by:
            track.was_above = False
    if (limit := trigger.below.get(name)) is not None:
        if value < limit and not track.was_below:
            track.was_below, fired = True, f"{name} below {limit:g}"
        elif value >= limit + return_by:
            track.was_below = False
    return fired


def _rounded(figure: float | None) -> float | None:
    """Rounds to the six significant digits of a 32-bit float, to keep rounding errors of sums out of the text."""
    return None if figure is None else float(f"{figure:.6g}")
