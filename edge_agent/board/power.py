"""Power: the readings of several sources, and which of them counts. Only measurements, no estimates."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board.files import if_there, read_integer, read_text
from edge_agent.board.reading import Power, Scope

MAX_WATTS = 1000.0
# Over a shorter time, the counter's own steps of about a millisecond show.
_MIN_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class PowerReading:
    watts: float
    scope: Scope
    source: str


def plausible_watts(watts: float) -> float:
    """Raises ValueError."""
    if not 0 <= watts <= MAX_WATTS:
        raise ValueError(f"absurd: {watts:g} W")
    return watts


class Rapl:
    """The energy counter of one x86 package, or of the whole platform (kernel: Documentation/power/powercap)."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = folder.name
        self._folder = folder
        self._energy = folder / "energy_uj"
        self._clock = clock
        self._domain: str | None = None
        self._last: tuple[float, int] | None = None

    @property
    def name(self) -> str:
        return f"{self._domain} ({self.key})" if self._domain else self.key

    def read(self) -> PowerReading | None:
        if self._domain is None:
            self._domain = if_there(read_text, self._folder / "name") or ""
        if self._domain != "psys" and not self._domain.startswith("package"):
            return None
        last, self._last = self._last, None
        now, energy_uj = self._clock(), read_integer(self._energy)
        if last is not None and now - last[0] < _MIN_INTERVAL_S:
            self._last = last
            return None
        self._last = now, energy_uj
        if last is None:
            return None
        used_uj = energy_uj - last[1]
        if used_uj < 0:
            used_uj += read_integer(self._folder / "max_energy_range_uj")
        scope = Scope.BOARD if self._domain == "psys" else Scope.SOC
        return PowerReading(plausible_watts(used_uj / 1e6 / (now - last[0])), scope, "rapl")


def choose_power(readings: Collection[PowerReading], known: Collection[Scope]) -> Power:
    """The sum of the sources of the widest scope that was ever measured.

    known: the scope of each source, also without a reading now. If one of them is missing there is no sum, because a
    part, or a narrower scope, would look like a fall in power.
    """
    scope = next((scope for scope in Scope if scope in known), Scope.NONE)
    chosen = [reading for reading in readings if reading.scope is scope]
    if not chosen or len(chosen) < sum(one is scope for one in known):
        return Power(scope=scope)
    sources = sorted({reading.source for reading in chosen})
    # Several meters may measure in series: together they are rails, some perhaps counted twice.
    scope = Scope.RAILS if scope is Scope.BOARD and len(chosen) > 1 else scope
    return Power(watts=round(sum(reading.watts for reading in chosen), 3), scope=scope, source="+".join(sources))
