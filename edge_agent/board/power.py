"""Power: meters in /sys/class/hwmon, the energy counters of x86, and which of them counts.

Only measurements, no estimates. Units of hwmon: mV, mA, µW (kernel: Documentation/hwmon/sysfs-interface.rst).
"""

import re
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from edge_agent.board.files import read_integer, read_integer_if_exists, read_text, read_within
from edge_agent.board.reading import Power, Scope, Throttle, ThrottleCause
from edge_agent.board.sensor import Device

MAX_WATTS = 1000.0
_INA2XX = re.compile(r"ina(209|219|220|226|230|231|232|233|234|236|237|238|260)")
# The rail that feeds all others on a Jetson's module.
_MODULE_INPUTS = ("VDD_IN", "POM_5V_IN")
_INA3221_CHANNELS = (1, 2, 3)  # the other files are shunts and their sum
_MAX_MV = 100_000


def measured(watts: float, scope: Scope, source: str) -> Power:
    """Raises ValueError for what no board draws."""
    if not 0 <= watts <= MAX_WATTS:
        raise ValueError(f"absurd: {watts:g} W")
    return Power(watts=watts, scope=scope, source=source)


class Chip(Device):
    """A power meter or the voltage alarm of a Raspberry Pi, known by its name. Any other chip has no reading."""

    type_file = "name"

    def measure(self) -> Power | Throttle | None:
        if self.type == "rpi_volt":
            # Every 2 s, the kernel asks the firmware whether the voltage has been too low since it last asked.
            is_low = read_within(self.folder / "in0_lcrit_alarm", 0, 1) == 1
            return Throttle(undervoltage_now=is_low, causes=(ThrottleCause.UNDERVOLTAGE,) * is_low)
        if self.type == "ina3221":
            return self._ina3221()
        return self._ina2xx() if _INA2XX.fullmatch(self.type) else None

    def _ina2xx(self) -> Power:
        """The chip's own product where it has one, because it knows its shunt. Channel 0 is the shunt's voltage."""
        power_uw = read_integer_if_exists(self.folder / "power1_input")
        watts = self._channel_watts(1) if power_uw is None else power_uw / 1e6
        return measured(watts, Scope.BOARD, self.type)

    def _ina3221(self) -> Power | None:
        """The power of the module's input, or of all channels in use. The chip has no power file."""
        watts: list[float] = []
        for channel in _INA3221_CHANNELS:
            try:
                label = read_text(self.folder / f"in{channel}_label")
            except FileNotFoundError:
                label = ""
            if label in _MODULE_INPUTS:
                return measured(self._channel_watts(channel), Scope.MODULE, f"ina3221 {label}")
            # A channel that is not connected or switched off does not count.
            if not re.search(r"\bNC\b", label) and read_integer_if_exists(self.folder / f"in{channel}_enable") != 0:
                watts.append(self._channel_watts(channel))
        return measured(sum(watts), Scope.RAILS, "ina3221") if watts else None

    def _channel_watts(self, channel: int) -> float:
        """Bus voltage times current. The voltage is never below 0: two negative factors would look like real power."""
        millivolts = read_within(self.folder / f"in{channel}_input", 0, _MAX_MV)
        return millivolts * read_integer(self.folder / f"curr{channel}_input") / 1e6


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
    scope = next((scope for scope in Scope if any(reading.scope is scope for reading in readings)), None)
    if scope is None:
        return Power()
    chosen = [reading for reading in readings if reading.scope is scope]
    source = "+".join(sorted({str(reading.source) for reading in chosen}))
    total = Power(watts=round(sum(reading.watts or 0.0 for reading in chosen), 3), scope=scope, source=source)
    # Several meters may measure in series: together they are rails, some perhaps counted twice.
    return replace(total, scope=Scope.RAILS) if scope is Scope.BOARD and len(chosen) > 1 else total
