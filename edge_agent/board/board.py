"""Which sensors a board has, and how their readings become one.

A board's name decides only what the firmware of a Raspberry Pi does; see firmware.py and thermal.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from edge_agent.board import identity
from edge_agent.board.cpu import Busy, BusyReading, CpuLoad, Frequency, FrequencyReading, LoadReading
from edge_agent.board.files import entries
from edge_agent.board.firmware import PowerRails, ThrottleBits
from edge_agent.board.hwmon import FanReading, HwmonChip
from edge_agent.board.memory import Cgroup, CgroupReading, Disk, DiskReading, MemoryInfo, MemoryReading
from edge_agent.board.power import PowerReading, Rapl, choose_power
from edge_agent.board.reading import BoardReading, Cpu, Memory, Scope, Thermal
from edge_agent.board.sensor import Sensor, SensorPass
from edge_agent.board.thermal import CoolingDevice, Zone, ZoneReading, soc_temperature
from edge_agent.board.throttle import (
    CoolingReading,
    FirmwareBits,
    OverCurrentReading,
    ThrottleModel,
    UndervoltageReading,
)

R = TypeVar("R")

_FIRMWARE = Path("/dev/vcio")
_DEVICES: tuple[tuple[str, str, Callable[[Path], Sensor]], ...] = (
    ("sys/class/thermal", "thermal_zone", Zone),
    ("sys/class/thermal", "cooling_device", CoolingDevice),
    ("sys/class/hwmon", "hwmon", HwmonChip),
    # Not `intel-rapl-mmio:`, which counts the same package again.
    ("sys/class/powercap", "intel-rapl:", Rapl),
)


class Board:
    """Reads below `root`: `/`, or a recorded tree, where no device is opened.

    disk: a folder on the disk whose free space counts.
    """

    def __init__(self, root: Path, disk: Path) -> None:
        self._root = root
        self._is_raspberry_pi = identity.is_raspberry_pi(root)
        has_firmware = root == Path("/") and self._is_raspberry_pi
        self._fixed: list[Sensor] = [
            CpuLoad(root),
            Busy(root),
            Frequency(root),
            MemoryInfo(root),
            Cgroup(root),
            Disk(disk),
        ]
        if has_firmware:
            self._fixed.append(PowerRails(_FIRMWARE))
        if has_firmware or root != Path("/"):
            self._fixed.append(ThrottleBits(root, _FIRMWARE if has_firmware else None))
        self._devices: dict[str, Sensor] = {}
        self._power_scopes: dict[str, Scope] = {}
        self._throttle = ThrottleModel()

    def model(self) -> str | None:
        """The board's name from its device tree; None on machines without one."""
        return identity.model(self._root)

    def cpu_features(self) -> list[str]:
        """The flags of the first core, sorted."""
        return identity.cpu_features(self._root)

    def sensors(self) -> list[Sensor]:
        """All sensors that exist now; a sensor that existed before is the same object."""
        found: dict[str, Sensor] = {}
        for folder, prefix, make in _DEVICES:
            for name in entries(self._root / folder):
                if name.startswith(prefix):
                    found[name] = self._devices.get(name) or make(self._root / folder / name)
        self._devices = found
        return [*self._fixed, *found.values()]

    def read(self) -> BoardReading:
        """Reads all sensors once, and blocks as long as they do. Rates are unknown at the first reading."""
        results = SensorPass()
        for sensor in self.sensors():
            results.add(sensor)
        return self.compose(results)

    def compose(self, results: SensorPass) -> BoardReading:
        """The readings of one pass as one."""
        readings, failures = results.readings.values(), results.failures
        zones, names = _all(ZoneReading, readings), self._zone_names()
        soc_c, limit_c = soc_temperature(zones, is_raspberry_pi=self._is_raspberry_pi)
        load, busy = _one(LoadReading, readings), _one(BusyReading, readings)
        frequency, disk = _one(FrequencyReading, readings), _one(DiskReading, readings)
        memory, cgroup = _one(MemoryReading, readings), _one(CgroupReading, readings)
        errors = {failure.name: failure.reason for failure in failures.values()}
        errors |= {f"{zone.name} limit": zone.limit_fault for zone in zones if zone.limit_fault is not None}
        return BoardReading(
            thermal=Thermal(
                soc_c=soc_c,
                limit_c=limit_c,
                zones={names[zone.key]: zone.temperature_c for zone in zones},
                fan_rpm=max((fan.rpm for fan in _all(FanReading, readings)), default=None),
            ),
            throttle=self._throttle.update(
                _one(FirmwareBits, readings),
                _all(UndervoltageReading, readings),
                _all(CoolingReading, readings),
                _one(OverCurrentReading, readings),
                is_blind=any(_may_throttle(sensor) for sensor in self._existing() if sensor.key in failures),
            ),
            power=choose_power(_all(PowerReading, readings), self._known_power_scopes(results)),
            cpu=Cpu(
                load1=load.load1 if load else None,
                percent=busy.percent if busy else None,
                freq_mhz=frequency.mhz if frequency else None,
                freq_max_mhz=frequency.max_mhz if frequency else None,
            ),
            memory=Memory(
                total_mb=memory.total_mb if memory else None,
                available_mb=memory.available_mb if memory else None,
                swap_used_mb=memory.swap_used_mb if memory else None,
                has_cgroup_controller=cgroup.has_memory_controller if cgroup else None,
            ),
            disk_free_mb=disk.free_mb if disk else None,
            errors=errors,
            offline=frozenset(failure.name for failure in failures.values() if failure.is_offline),
        )

    def _existing(self) -> list[Sensor]:
        return [*self._fixed, *self._devices.values()]

    def _zone_names(self) -> dict[str, str]:
        """By key: the type, and `type#2` for a second zone of that type. A zone that fails keeps its number."""
        names: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for key, sensor in self._devices.items():
            if isinstance(sensor, Zone) and sensor.type is not None:
                counts[sensor.type] += 1
                number = counts[sensor.type]
                names[key] = sensor.type if number == 1 else f"{sensor.type}#{number}"
        return names

    def _known_power_scopes(self, results: SensorPass) -> list[Scope]:
        """A scope for each existing source that has measured power before, whether or not it does now."""
        keys = {sensor.key for sensor in self._existing()}
        known = {key: scope for key, scope in self._power_scopes.items() if key in keys}
        measured = {key: one.scope for key, one in results.readings.items() if isinstance(one, PowerReading)}
        self._power_scopes = known | measured
        return list(self._power_scopes.values())


def _may_throttle(sensor: Sensor) -> bool:
    return isinstance(sensor, (CoolingDevice, ThrottleBits)) or (
        isinstance(sensor, HwmonChip) and sensor.is_throttle_source
    )


def _all(kind: type[R], readings: Iterable[object]) -> list[R]:
    return [reading for reading in readings if isinstance(reading, kind)]


def _one(kind: type[R], readings: Iterable[object]) -> R | None:
    return next(iter(_all(kind, readings)), None)
