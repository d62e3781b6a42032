"""Chips in /sys/class/hwmon, known by their name: power meters, and the voltage alarm of a Raspberry Pi.

Units: mV, mA, µW (kernel: Documentation/hwmon/sysfs-interface.rst).
"""

from __future__ import annotations

import re

from edge_agent.board.files import integer_if_there, read_integer, read_text, read_within
from edge_agent.board.power import measured
from edge_agent.board.reading import Power, Scope, Throttle, ThrottleCause
from edge_agent.board.sensor import Device

_INA2XX = re.compile(r"ina(209|219|220|226|230|231|232|233|234|236|237|238|260)")
# The rail that feeds all others on a Jetson's module.
_MODULE_INPUTS = ("VDD_IN", "POM_5V_IN")
_INA3221_CHANNELS = (1, 2, 3)  # the other files are shunts and their sum
_MAX_MV = 100_000


class Chip(Device):
    """Any chip but those of the two kinds has no reading."""

    type_file = "name"

    def measure(self) -> Power | Throttle | None:
        if self.type == "rpi_volt":
            # The kernel asks the firmware every 2 s whether the voltage was too low since.
            is_low = read_within(self.folder / "in0_lcrit_alarm", 0, 1) == 1
            return Throttle(undervoltage_now=is_low, causes=(ThrottleCause.UNDERVOLTAGE,) * is_low)
        if self.type == "ina3221":
            return self._ina3221()
        return self._ina2xx() if _INA2XX.fullmatch(self.type) else None

    def _ina2xx(self) -> Power:
        """The chip's own product where it has one, because it knows its shunt. Channel 0 is the shunt's voltage."""
        power_uw = integer_if_there(self.folder / "power1_input")
        watts = self._channel_watts(1) if power_uw is None else power_uw / 1e6
        return measured(watts, Scope.BOARD, self.type)

    def _ina3221(self) -> Power | None:
        """The module's input, or all channels in use: the chip has no power file."""
        watts: list[float] = []
        for channel in _INA3221_CHANNELS:
            try:
                label = read_text(self.folder / f"in{channel}_label")
            except FileNotFoundError:
                label = ""
            if label in _MODULE_INPUTS:
                return measured(self._channel_watts(channel), Scope.MODULE, f"ina3221 {label}")
            # Not connected, or switched off.
            if not re.search(r"\bNC\b", label) and integer_if_there(self.folder / f"in{channel}_enable") != 0:
                watts.append(self._channel_watts(channel))
        return measured(sum(watts), Scope.RAILS, "ina3221") if watts else None

    def _channel_watts(self, channel: int) -> float:
        """Bus voltage, never below 0, times current: two negative factors would look like real power."""
        millivolts = read_within(self.folder / f"in{channel}_input", 0, _MAX_MV)
        return millivolts * read_integer(self.folder / f"curr{channel}_input") / 1e6
