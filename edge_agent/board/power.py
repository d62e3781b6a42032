"""Power: the readings of several sources, and which of them counts. Only measurements, no estimates."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from edge_agent.board.files import read_integer
from edge_agent.board.reading import Power, Scope
from edge_agent.board.sensor import Device

MAX_WATTS = 1000.0


def measured(watts: float, scope: Scope, source: str) -> Power:
    """Raises ValueError for what no board draws."""
    if not 0 <= watts <= MAX_WATTS:
        raise ValueError(f"absurd: {watts:g} W")
    return Power(watts=watts, scope=scope, source=source)


class Rapl(Device):
    """The energy counter of one x86 package, or of the whole platform (kernel: Documentation/power/powercap)."""

    type_file = "name"

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(folder)
        self._clock = clock
        self._last: tuple[float, int] | None = None

    def measure(self) -> Power | None:
        if self.type != "psys" and not self.type.startswith("package"):
            return None
        last, self._last = self._last, (self._clock(), read_integer(self.folder / "energy_uj"))
        if last is None:
            return None
        seconds, used_uj = self._last[0] - last[0], self._last[1] - last[1]
        if used_uj < 0:
            used_uj += read_integer(self.folder / "max_energy_range_uj")
        return measured(used_uj / 1e6 / seconds, Scope.BOARD if self.type == "psys" else Scope.SOC, "rapl")


def choose_power(readings: Collection[Power]) -> Power:
    """The sum of the sources of the widest scope."""
    scope = next((scope for scope in Scope if any(one.scope is scope for one in readings)), None)
    if scope is None:
        return Power()
    chosen = [one for one in readings if one.scope is scope]
    source = "+".join(sorted({str(one.source) for one in chosen}))
    total = Power(watts=round(sum(one.watts or 0.0 for one in chosen), 3), scope=scope, source=source)
    # Several meters may measure in series: together they are rails, some perhaps counted twice.
    return replace(total, scope=Scope.RAILS) if scope is Scope.BOARD and len(chosen) > 1 else total
