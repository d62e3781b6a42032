"""Which sensors a board has, and how their readings become one.

Nothing is decided by a board's name but what only the firmware of a Raspberry Pi does: see firmware.py and thermal.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from edge_agent.board import identity
from edge_agent.board.cpu import Busy, BusyReading, Frequency, FrequencyReading, Load, LoadReading
from edge_agent.board.files import entries
from edge_agent.board.firmware import PowerRails, ThrottleBits
from edge_agent.board.hwmon import FanReading, HwmonChip
from edge_agent.board.memory import Cgroup, CgroupReading, Disk, DiskReading, MemoryInfo, MemoryReading
from edge_agent.board.power import PowerReading, Rapl, choose
from edge_agent.board.reading import BoardReading, Cpu, Memory, Scope, Thermal
from edge_agent.board.sensor import Findings, Sensor
from edge_agent.board.thermal import CoolingDevice, Zone, ZoneReading, soc
from edge_agent.board.throttle import (
    CoolingReading,
    FirmwareBits,
    OverCurrentReading,
    ThrottleModel,
    UndervoltageReading,
)

Part = TypeVar("Part")

_FIRMWARE = Path("/dev/vcio")
_DEVICES: tuple[tuple[str, str, Callable[[Path], Sensor]], ...] = (
    ("sys/class/thermal", "thermal_zone", Zone),
    ("sys/class/thermal", "cooling_device", CoolingDevice),
    ("sys/class/hwmon", "hwmon", HwmonChip),
    # Not `intel-rapl-mmio:`, which counts the same package once more.
    ("sys/class/powercap", "intel-rapl:", Rapl),
)


class Board:
    """Reads below `root`: `/`, or a recorded tree, where no device is opened.

    disk: a folder on the disk whose free space counts.
    """

    def __init__(self, root: Path, disk: Path) -> None:
        self._root = root
        self._is_raspberry_pi = identity.is_raspberry_pi(root)
        is_own_firmware = root == Path("/") and self._is_raspberry_pi
        self._fixed: list[Sensor] = [
            Load(root),
            Busy(root),
            Frequency(root),
            MemoryInfo(root),
            Cgroup(root),
            Disk(disk),
        ]
        if is_own_firmware:
            self._fixed.append(PowerRails(_FIRMWARE))
        if is_own_firmware or root != Path("/"):
            self._fixed.append(ThrottleBits(root, _FIRMWARE if is_own_firmware else None))
        self._devices: dict[str, Sensor] = {}
        self._zone_names: dict[str, str] = {}
        self._power_scopes: dict[str, Scope] = {}
        self._throttle = ThrottleModel()

    def model(self) -> str | None:
        """The board's name from its device tree; None on machines without one."""
        return identity.model(self._root)

    def cpu_features(self) -> list[str]:
        """The flags of the first core, sorted."""
        return identity.cpu_features(self._root)

    def sensors(self) -> list[Sensor]:
        """All there are now; what was there before is the same object."""
        found: dict[str, Sensor] = {}
        for folder, prefix, make in _DEVICES:
            for name in entries(self._root / folder):
                if name.startswith(prefix):
                    found[name] = self._devices.get(name) or make(self._root / folder / name)
        self._devices = found
        return self._all_sensors()

    def _all_sensors(self) -> list[Sensor]:
        return [*self._fixed, *self._devices.values()]

    def read(self) -> BoardReading:
        """All sensors once, here and now: blocks as long as they do. Rates are unknown at a first reading."""
        findings = Findings()
        for sensor in self.sensors():
            findings.take(sensor)
        return self.compose(findings)

    def compose(self, findings: Findings) -> BoardReading:
        """What the sensors of one pass say together."""
        parts = findings.parts.values()
        zones = _all(ZoneReading, parts)
        soc_c, limit_c = soc(zones, is_raspberry_pi=self._is_raspberry_pi)
        load, busy, frequency = _one(LoadReading, parts), _one(BusyReading, parts), _one(FrequencyReading, parts)
        memory, cgroup, disk = _one(MemoryReading, parts), _one(CgroupReading, parts), _one(DiskReading, parts)
        self._name_zones()
        there = {sensor.key for sensor in self._all_sensors()}
        self._power_scopes = {key: scope for key, scope in self._power_scopes.items() if key in there} | {
            key: part.scope for key, part in findings.parts.items() if isinstance(part, PowerReading)
        }
        return BoardReading(
            thermal=Thermal(
                soc_c=soc_c,
                limit_c=limit_c,
                zones={self._zone_names[zone.key]: zone.temperature_c for zone in zones},
                fan_rpm=max((fan.rpm for fan in _all(FanReading, parts)), default=None),
            ),
            throttle=self._throttle.update(
                _one(FirmwareBits, parts),
                _all(UndervoltageReading, parts),
                _all(CoolingReading, parts),
                _one(OverCurrentReading, parts),
                is_blind=any(_may_throttle(sensor) for sensor in self._all_sensors() if sensor.key in findings.failed),
            ),
            power=choose(_all(PowerReading, parts), self._power_scopes.values()),
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
            errors=findings.errors,
            offline=frozenset(findings.offline),
        )

    def _name_zones(self) -> None:
        """By type; of several of one type the first seen has it alone: one that fails must not rename the others.

        A number that another zone has taken has another name.
        """
        self._zone_names = {
            key: name
            for key, name in self._zone_names.items()
            if isinstance(zone := self._devices.get(key), Zone) and name.partition("#")[0] == zone.type
        }
        for key, sensor in self._devices.items():
            if isinstance(sensor, Zone) and sensor.type is not None and key not in self._zone_names:
                name, number = sensor.type, 2
                while name in self._zone_names.values():
                    name, number = f"{sensor.type}#{number}", number + 1
                self._zone_names[key] = name


def _may_throttle(sensor: Sensor) -> bool:
    return isinstance(sensor, (CoolingDevice, ThrottleBits)) or (
        isinstance(sensor, HwmonChip) and sensor.is_throttle_source
    )


def _all(kind: type[Part], parts: Iterable[object]) -> list[Part]:
    return [part for part in parts if isinstance(part, kind)]


def _one(kind: type[Part], parts: Iterable[object]) -> Part | None:
    return next(iter(_all(kind, parts)), None)
