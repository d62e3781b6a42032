"""Thermal zones and cooling devices (kernel: Documentation/driver-api/thermal/sysfs-api.rst)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board.files import OfflineError, entries, read_integer, read_name, read_text, read_within, reason
from edge_agent.board.throttle import CoolingReading

COLDEST_C, HOTTEST_C = -40.0, 150.0
# No SoC is slowed down below: such a trip is a mistake, and the agent would refuse all requests for it.
LOWEST_LIMIT_C = 40.0
# The firmware of a Raspberry Pi slows the cores down from here to 85 °C, whatever trips the kernel has
# (raspberrypi/documentation, frequency-management.adoc).
RASPBERRY_PI_LIMIT_C = 80.0

# Zones of the SoC by type, the best first where none has a limit. The junction is the hottest of all.
_JUNCTION = re.compile(r"tj-therm(al)?")
_SOC_ZONES = (
    _JUNCTION,
    re.compile(r"package-thermal"),
    re.compile(r"soc-?\d*-therm(al)?"),
    re.compile(r"cpu-?\d*(-\d+)*-therm(al)?|cpu-thermal\d*"),
    re.compile(r"(big|little)core\d*-thermal"),
    re.compile(r"x86-pkg-temp"),
)
# Often a fixed value.
_LAST_RESORT = re.compile(r"acpitz")
# The kernel's names, old and new; those of NVIDIA's kernel, whose firmware throttles; those of ACPI.
_THROTTLES = re.compile(r"(thermal-)?(cpufreq|devfreq)-.+|.+-throttle-alert|Processor")
_MAX_COOLING_STATES = 10_000


@dataclass(frozen=True, slots=True)
class Limit:
    """The passive trip of a zone. is_mapped: the kernel cools something when the trip is passed."""

    at_c: float
    is_mapped: bool


@dataclass(frozen=True, slots=True)
class ZoneReading:
    """limit_fault: why the limit is unknown."""

    key: str
    type: str
    temperature_c: float
    limit: Limit | None = None
    limit_fault: str | None = None

    @property
    def name(self) -> str:
        return f"{self.type} ({self.key})"


class Zone:
    """One thermal zone. Its type and limit are read once, and again after a fault: its number may belong to another."""

    def __init__(self, folder: Path) -> None:
        self.key = folder.name
        self.type: str | None = None
        self._folder = folder
        self._is_identified = False
        self._limit: Limit | None = None
        self._limit_fault: str | None = None

    @property
    def name(self) -> str:
        return f"{self.type} ({self.key})" if self.type else self.key

    def read(self) -> ZoneReading:
        if not self._is_identified:
            self.type = read_name(self._folder / "type")
            self._limit, self._limit_fault = _limit(self._folder)
            self._is_identified = self._limit_fault is None
        assert self.type is not None
        try:
            return ZoneReading(self.key, self.type, self._temperature_c(), self._limit, self._limit_fault)
        except (OSError, ValueError):
            self._is_identified = False
            raise

    def _temperature_c(self) -> float:
        temperature_c = read_integer(self._folder / "temp") / 1000
        # A driver reports 0, or less than a board survives, for a sensor that is off: -256 °C on a Jetson.
        if temperature_c == 0 or temperature_c < COLDEST_C:
            raise OfflineError(f"absurd: {temperature_c:g} °C")
        if temperature_c > HOTTEST_C:
            raise ValueError(f"absurd: {temperature_c:g} °C")
        return temperature_c


def _limit(folder: Path) -> tuple[Limit | None, str | None]:
    """The highest passive trip that has a cooling map, or without maps the highest; or why it is unknown.

    A lower trip without a map only starts the statistics of the power allocator: 75 °C beside 85 °C on an RK3588.
    """
    trips: dict[int, float] = {}
    mapped: set[int] = set()
    for name in entries(folder):
        try:
            if match := re.fullmatch(r"trip_point_(\d+)_type", name):
                if read_text(folder / name) != "passive":
                    continue
                temperature_c = read_integer(folder / f"trip_point_{match[1]}_temp") / 1000
                # x86_pkg_temp has trips that are not set yet, at 0 or below.
                if LOWEST_LIMIT_C <= temperature_c <= HOTTEST_C:
                    trips[int(match[1])] = temperature_c
            elif re.fullmatch(r"cdev\d+_trip_point", name):
                mapped.add(read_integer(folder / name))
        except (OSError, ValueError) as error:
            return None, f"{name}: {reason(error)}"
    mapped.discard(-1)  # bound to no trip
    at_c = max((at_c for trip, at_c in trips.items() if trip in mapped or not mapped), default=None)
    return None if at_c is None else Limit(at_c, is_mapped=bool(mapped)), None


class CoolingDevice:
    """One cooling device. A fan does not throttle and has no reading."""

    def __init__(self, folder: Path) -> None:
        self.key = folder.name
        self._folder = folder
        self._type: str | None = None

    @property
    def name(self) -> str:
        return f"{self._type} ({self.key})" if self._type else self.key

    def read(self) -> CoolingReading | None:
        if self._type is None:
            self._type = read_name(self._folder / "type")
        if not _THROTTLES.fullmatch(self._type):
            return None
        return CoolingReading(is_active=read_within(self._folder / "cur_state", 0, _MAX_COOLING_STATES) > 0)


def soc_temperature(zones: Sequence[ZoneReading], *, is_raspberry_pi: bool) -> tuple[float | None, float | None]:
    """Temperature and limit of the SoC: those of its zone that is nearest to its limit, where the kernel acts first.

    Where one zone has a cooling map, limits without one do not count: they cool nothing. Where no zone has a limit, the
    temperature is that of the best known type.
    """
    ranked = [
        (rank, zone)
        for rank, pattern in enumerate(_SOC_ZONES)
        for zone in zones
        if pattern.fullmatch(_normal(zone.type))
    ] or [(0, zone) for zone in zones if _LAST_RESORT.fullmatch(zone.type)]
    if not ranked:
        return None, None
    has_maps = any(zone.limit is not None and zone.limit.is_mapped for _, zone in ranked)
    limits = {
        zone.key: zone.limit.at_c
        for _, zone in ranked
        if zone.limit is not None and (zone.limit.is_mapped or not has_maps)
    }
    lowest_c = min([*limits.values(), *([RASPBERRY_PI_LIMIT_C] if is_raspberry_pi else [])], default=None)
    if lowest_c is not None:
        for _, zone in ranked:
            if is_raspberry_pi or (zone.key not in limits and _JUNCTION.fullmatch(_normal(zone.type))):
                limits[zone.key] = lowest_c
    pairs = [(zone.temperature_c, limits[zone.key]) for _, zone in ranked if zone.key in limits]
    if pairs:
        return min(pairs, key=lambda pair: pair[1] - pair[0])
    return min(ranked, key=lambda pair: (pair[0], -pair[1].temperature_c))[1].temperature_c, None


def _normal(zone_type: str) -> str:
    return zone_type.lower().replace("_", "-")
