"""Thermal zones and cooling devices (kernel: Documentation/driver-api/thermal/sysfs-api.rst)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board.files import entries, read_integer, read_text, read_within
from edge_agent.board.reading import Throttle, ThrottleCause
from edge_agent.board.sensor import Device

COLDEST_C, HOTTEST_C = -40.0, 150.0
# No SoC slows down below this. A lower trip is a mistake, and would make the agent refuse all requests.
LOWEST_LIMIT_C = 40.0
# The firmware of a Raspberry Pi slows the cores down from here to 85 °C, whatever trips the kernel has
# (raspberrypi/documentation, frequency-management.adoc).
RASPBERRY_PI_LIMIT_C = 80.0

# Zones of the SoC, by type.
_SOC_ZONE = re.compile(
    r"tj-therm(al)?|package-thermal|soc-?\d*-therm(al)?|cpu-?\d*(-\d+)*-therm(al)?|cpu-thermal\d*"
    r"|(big|little)core\d*-thermal|x86-pkg-temp"
)
# Often a fixed value.
_LAST_RESORT = "acpitz"
# The kernel's names, old and new; those of NVIDIA's kernel, whose firmware throttles; those of ACPI.
_THROTTLES = re.compile(r"(thermal-)?(cpufreq|devfreq)-.+|.+-throttle-alert|Processor")
_MAX_COOLING_STATES = 10_000


@dataclass(frozen=True, slots=True)
class Limit:
    """The passive trip of a zone."""

    at_c: float
    is_mapped: bool
    """Whether the kernel cools something when the trip is passed."""


@dataclass(frozen=True, slots=True)
class ZoneReading:
    type: str
    temperature_c: float
    limit: Limit | None = None


class Zone(Device):
    """One thermal zone."""

    _limit: Limit | None = None

    def identify(self) -> None:
        self._limit = _limit(self.folder)

    def measure(self) -> ZoneReading | None:
        temperature_c = read_integer(self.folder / "temp") / 1000
        # A driver reports 0, or less than a board survives, for a sensor that is off: -256 °C on a Jetson.
        if temperature_c == 0 or temperature_c < COLDEST_C:
            return None
        if temperature_c > HOTTEST_C:
            raise ValueError(f"absurd: {temperature_c:g} °C")
        return ZoneReading(self.type, temperature_c, self._limit)


def _limit(folder: Path) -> Limit | None:
    """The highest passive trip that has a cooling map or, without maps, the highest of all. Raises OSError, ValueError.

    A lower trip without a map only starts the statistics of the power allocator: 75 °C beside 85 °C on an RK3588.
    """
    trips: dict[int, float] = {}
    mapped: set[int] = set()
    for name in entries(folder):
        if match := re.fullmatch(r"trip_point_(\d+)_type", name):
            if read_text(folder / name) == "passive":
                trips[int(match[1])] = read_integer(folder / f"trip_point_{match[1]}_temp") / 1000
        elif re.fullmatch(r"cdev\d+_trip_point", name):
            mapped.add(read_integer(folder / name))
    mapped.discard(-1)  # bound to no trip
    # x86_pkg_temp has trips that are not set yet, at 0 or below.
    cooled = [at_c for trip, at_c in trips.items() if trip in mapped or not mapped]
    limits = [at_c for at_c in cooled if LOWEST_LIMIT_C <= at_c <= HOTTEST_C]
    return Limit(max(limits), is_mapped=bool(mapped)) if limits else None


class CoolingDevice(Device):
    """One cooling device. A fan does not throttle and has no reading."""

    def measure(self) -> Throttle | None:
        if not _THROTTLES.fullmatch(self.type):
            return None
        is_active = read_within(self.folder / "cur_state", 0, _MAX_COOLING_STATES) > 0
        return Throttle(now=is_active, causes=(ThrottleCause.THERMAL,) * is_active)


def soc_temperature(zones: Sequence[ZoneReading], *, is_raspberry_pi: bool) -> tuple[float | None, float | None]:
    """Temperature and limit of the SoC's zone that is nearest to its limit, where the kernel acts first.

    Where one zone has a cooling map, limits without one do not count, because they cool nothing. Where no zone has a
    limit, the hottest counts.
    """
    soc = [zone for zone in zones if _SOC_ZONE.fullmatch(zone.type.lower().replace("_", "-"))]
    soc = soc or [zone for zone in zones if zone.type == _LAST_RESORT]
    if not soc:
        return None, None
    limits = [zone.limit for zone in soc if zone.limit is not None]
    has_maps = any(limit.is_mapped for limit in limits)
    if is_raspberry_pi:
        return max(zone.temperature_c for zone in soc), min([RASPBERRY_PI_LIMIT_C, *(limit.at_c for limit in limits)])
    pairs = [
        (zone.temperature_c, zone.limit.at_c)
        for zone in soc
        if zone.limit is not None and (zone.limit.is_mapped or not has_maps)
    ]
    if pairs:
        return min(pairs, key=lambda pair: pair[1] - pair[0])
    return max(zone.temperature_c for zone in soc), None
