"""Thermal zones and cooling devices (kernel: Documentation/driver-api/thermal/sysfs-api.rst)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board.files import OfflineError, entries, read_integer, read_name, read_text, read_within, reason
from edge_agent.board.throttle import CoolingReading

COLDEST_C, HOTTEST_C = -40.0, 150.0
# No SoC is slowed down below: such a trip is a mistake, and the agent would refuse everything for it.
LOWEST_LIMIT_C = 40.0
# The firmware of a Raspberry Pi slows the cores down from here to 85 °C, whatever trips the kernel has
# (raspberrypi/documentation, frequency-management.adoc).
RASPBERRY_PI_LIMIT_C = 80.0

# Zones of the SoC by type, best first where none has a limit. Junction is the hottest of all; `acpitz` is often fixed.
_JUNCTION = re.compile(r"tj-therm(al)?")
_SOC_ZONES = (
    _JUNCTION,
    re.compile(r"package-thermal"),
    re.compile(r"soc-?\d*-therm(al)?"),
    re.compile(r"cpu-?\d*(-\d+)*-therm(al)?|cpu-thermal\d*"),
    re.compile(r"(big|little)core\d*-thermal"),
    re.compile(r"x86-pkg-temp"),
)
_MOST_STATES = 10_000
_LAST_RESORT = re.compile(r"acpitz")
# The kernel's names old and new; those of NVIDIA's kernel, whose firmware does the throttling; those of ACPI.
_THROTTLES = re.compile(r"(thermal-)?(cpufreq|devfreq)-.+|.+-throttle-alert|Processor")


@dataclass(frozen=True, slots=True)
class Limit:
    """Of a zone: its passive trip. is_mapped: the kernel is known to cool something when it is passed."""

    at_c: float
    is_mapped: bool


@dataclass(frozen=True, slots=True)
class ZoneReading:
    key: str
    type: str
    temperature_c: float
    limit: Limit | None


class Zone:
    """One thermal zone. Its type and trips are read once, as they do not touch the sensor; after a fault again."""

    def __init__(self, folder: Path) -> None:
        self.key = folder.name
        self.type: str | None = None
        self._folder = folder
        self._temperature = folder / "temp"
        self._limit: Limit | None = None
        self._is_limit_known = False
        # Another zone may have taken its number.
        self._has_failed = False

    @property
    def name(self) -> str:
        return f"{self.type} ({self.key})" if self.type else self.key

    def read(self, faults: dict[str, str]) -> ZoneReading:
        if self.type is None or self._has_failed:
            zone_type = read_name(self._folder / "type")
            self._is_limit_known = self._is_limit_known and zone_type == self.type
            self.type, self._has_failed = zone_type, False
        if not self._is_limit_known:
            lesser: dict[str, str] = {}
            self._limit = _limit(self._folder, lesser)
            self._is_limit_known = not lesser
            faults.update({f"{self.name} {name}": why for name, why in lesser.items()})
        try:
            return ZoneReading(self.key, self.type, self._temperature_c(), self._limit)
        except (OSError, ValueError):
            self._has_failed = True
            raise

    def _temperature_c(self) -> float:
        temperature_c = read_integer(self._temperature) / 1000
        # Drivers tell a sensor that is off by 0 or by something below what a board survives, -256 °C on a Jetson.
        if temperature_c == 0 or temperature_c < COLDEST_C:
            raise OfflineError(f"absurd: {temperature_c:g} °C")
        if temperature_c > HOTTEST_C:
            raise ValueError(f"absurd: {temperature_c:g} °C")
        return temperature_c


def _limit(folder: Path, faults: dict[str, str]) -> Limit | None:
    """The highest passive trip that has a cooling map; without maps, the highest passive trip; None after a fault.

    A lower one without a map only starts the statistics of the power allocator: 75 °C beside 85 °C on an RK3588.
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
            faults[name.removesuffix("_type")] = reason(error)
    if faults:
        return None
    mapped.discard(-1)  # bound to no trip
    at_c = max((at_c for trip, at_c in trips.items() if trip in mapped or not mapped), default=None)
    return None if at_c is None else Limit(at_c, is_mapped=bool(mapped))


class CoolingDevice:
    """One cooling device; a fan is none that throttles, and has no reading."""

    def __init__(self, folder: Path) -> None:
        self.key = folder.name
        self._folder = folder
        self._state = folder / "cur_state"
        self._type: str | None = None

    @property
    def name(self) -> str:
        return f"{self._type} ({self.key})" if self._type else self.key

    def read(self, faults: dict[str, str]) -> CoolingReading | None:  # noqa: ARG002
        if self._type is None:
            self._type = read_name(self._folder / "type")
        if not _THROTTLES.fullmatch(self._type):
            return None
        return CoolingReading(is_active=read_within(self._state, 0, _MOST_STATES) > 0)


def soc(zones: Sequence[ZoneReading], *, is_raspberry_pi: bool) -> tuple[float | None, float | None]:
    """Temperature and limit of the SoC: of its zone that is nearest to its limit, for that one will be acted on.

    Where one has a cooling map, limits of those without do not count: they cool nothing. Where no zone has a limit, the
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
