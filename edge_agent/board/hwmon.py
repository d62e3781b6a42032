"""Chips in /sys/class/hwmon, known by their name: their numbers change from boot to boot.

Units: mV, mA, µW, rpm (kernel: Documentation/hwmon/sysfs-interface.rst).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board.files import entries, if_there, read_integer, read_name, read_text, read_within
from edge_agent.board.power import PowerReading, plausible_watts
from edge_agent.board.reading import Scope
from edge_agent.board.throttle import OverCurrentReading, UndervoltageReading

_INA2XX = re.compile(r"ina(209|219|220|226|230|231|232|233|234|236|237|238|260)")
# The rail that feeds all others on a Jetson's module.
_MODULE_INPUTS = ("VDD_IN", "POM_5V_IN")
_INA3221_CHANNELS = (1, 2, 3)  # the other files are shunts and their sum
_MAX_FAN_RPM = 50_000
_MAX_MV = 100_000


@dataclass(frozen=True, slots=True)
class FanReading:
    rpm: float


Reading = PowerReading | FanReading | UndervoltageReading | OverCurrentReading
_THROTTLE_FILES = re.compile(r"in0_lcrit_alarm|oc[1-3]_(event_cnt|throt_en)")


class HwmonChip:
    """One chip. It is identified once, and again after a fault: its number may belong to another chip then."""

    def __init__(self, folder: Path) -> None:
        self.key = folder.name
        self._folder = folder
        self._chip: str | None = None
        self._fans: list[Path] = []
        self._is_identified = False
        # Reports throttling or undervoltage, by its files: its name may not be readable.
        self.is_throttle_source = False

    @property
    def name(self) -> str:
        return f"{self._chip} ({self.key})" if self._chip else self.key

    def read(self) -> Reading | None:
        if not self._is_identified:
            names = entries(self._folder)
            self.is_throttle_source = any(_THROTTLE_FILES.fullmatch(name) for name in names)
            self._fans = [self._folder / name for name in names if re.fullmatch(r"fan\d+_input", name)]
            self._chip = None
            self._chip = read_name(self._folder / "name")
            self._is_identified = True
        try:
            return self._read()
        except (OSError, ValueError):
            self._is_identified = False
            raise

    def _read(self) -> Reading | None:
        match self._chip:
            case "rpi_volt":
                alarm = if_there(read_integer, self._folder / "in0_lcrit_alarm")
                if alarm not in (None, 0, 1):
                    raise ValueError(f"in0_lcrit_alarm: absurd: {alarm}")
                return None if alarm is None else UndervoltageReading(is_low=bool(alarm))
            case "soctherm_oc":
                return self._over_current()
            case "ina3221":
                return self._ina3221()
            case str(chip) if _INA2XX.fullmatch(chip):
                return PowerReading(plausible_watts(self._ina2xx_watts()), Scope.BOARD, chip)
        if self._fans:
            return FanReading(rpm=max(read_within(fan, 0, _MAX_FAN_RPM) for fan in self._fans))
        return None

    def _number(self, name: str) -> int | None:
        return if_there(read_integer, self._folder / name)

    def _ina2xx_watts(self) -> float:
        """The chip's own product where it has one, because it knows its shunt. Channel 0 is the shunt's voltage."""
        power_uw = self._number("power1_input")
        if power_uw is not None:
            return power_uw / 1e6
        return self._millivolts(1) * read_integer(self._folder / "curr1_input") / 1e6

    def _millivolts(self, channel: int) -> int:
        """The voltage of a bus, never below 0: with a negative current it would look like real power."""
        return read_within(self._folder / f"in{channel}_input", 0, _MAX_MV)

    def _ina3221(self) -> PowerReading | None:
        """Bus voltage times current of the module's input, or of all channels in use: the chip has no power file."""
        labels = {channel: if_there(read_text, self._folder / f"in{channel}_label") for channel in _INA3221_CHANNELS}
        if any(labels.values()) and not all(labels.values()):
            raise ValueError(f"labels of some channels only: {labels}")  # one of the others may be the module's input
        used = {
            channel: label
            for channel, label in labels.items()
            if not re.search(r"\bNC\b", label or "") and self._number(f"in{channel}_enable") != 0
        }
        for channel, label in used.items():
            if label in _MODULE_INPUTS:
                return PowerReading(self._channel_watts(channel), Scope.MODULE, f"ina3221 {label}")
        watts = [self._channel_watts(channel) for channel in used]
        return PowerReading(sum(watts), Scope.RAILS, "ina3221") if watts else None

    def _channel_watts(self, channel: int) -> float:
        current_ma = read_integer(self._folder / f"curr{channel}_input")
        return plausible_watts(self._millivolts(channel) * current_ma / 1e6)

    def _over_current(self) -> OverCurrentReading | None:
        """Counts of the alarms that throttle, numbered as on a Jetson Orin (NVIDIA: Platform Power and Performance)."""
        alarms = (1, 2, 3)
        counts = [self._number(f"oc{alarm}_event_cnt") for alarm in alarms]
        if all(count is None for count in counts):
            return None
        if any(count is None or count < 0 for count in counts):
            raise ValueError(f"oc*_event_cnt: absurd: {counts}")
        undervoltage, average, instantaneous = (
            count or 0 if self._number(f"oc{alarm}_throt_en") != 0 else 0
            for alarm, count in zip(alarms, counts, strict=True)
        )
        return OverCurrentReading(undervoltage=undervoltage, over_current=average + instantaneous)
