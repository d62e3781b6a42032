"""Which sensors a board has, and how their readings become one.

A board's `compatible` decides only what the firmware of a Raspberry Pi does; see firmware.py and thermal.py.
Whatever the kernel calls a thermal zone is in health without a change. Any other new sensor needs
- a class with an entry in `_DEVICES`, or a `FixedSensor` in `Board.__init__`;
- a field in reading.py, in `BoardReading.as_health` there, and in `Board.compose` here;
- that field in tools/schema/health.json and in the sample and the table of docs/mqtt-api.md;
- a file in a tree of tests/helpers/boards, and its value in tests/board/test_board.py.
The agent acts on it in governor.py (for a SoC's temperature, by `_SOC_ZONE` in thermal.py) and status/alarms.py.
To show it, add it to status/homeassistant.py, tools/watch/table.py, tools/doctor/system.py or examples/monitoring.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from edge_agent.board.files import entries, read_text
from edge_agent.board.firmware import read_rails, read_recorded_bits, read_throttle_bits
from edge_agent.board.power import Chip, Rapl, choose_power
from edge_agent.board.reading import BoardReading, Cpu, Memory, Power, Thermal, Throttle, ThrottleCause
from edge_agent.board.sensor import Device, FixedSensor, Sensor, SensorPass
from edge_agent.board.system import BusyTime, DiskReading, read_below, read_disk, read_frequency, read_load, read_memory
from edge_agent.board.thermal import CoolingDevice, Zone, ZoneReading, soc_temperature

R = TypeVar("R")
P = TypeVar("P", Cpu, Memory)

_FIRMWARE = Path("/dev/vcio")
_DEVICES: tuple[tuple[str, str, Callable[[Path], Device]], ...] = (
    ("sys/class/thermal", "thermal_zone", Zone),
    ("sys/class/thermal", "cooling_device", CoolingDevice),
    ("sys/class/hwmon", "hwmon", Chip),
    # Not `intel-rapl-mmio:`, which counts the same package again.
    ("sys/class/powercap", "intel-rapl:", Rapl),
)
# Prefixes of the keys of sensors that measure power, and of those that report throttling. One class reads all chips
# of hwmon, so a chip that fails makes power unknown, whatever it measures.
_POWER_KEYS = ("hwmon", "intel-rapl:", "pmic_read_adc")
_THROTTLE_KEYS = ("cooling_device", "get_throttled")
_MAX_MODEL = 100


class Board:
    """Reads below `root`: `/`, or a recorded tree, where no device is opened."""

    def __init__(self, root: Path, disk: Path) -> None:
        """`disk` is a folder on the disk whose free space counts."""
        self._root = root
        read_below(root)
        # Also for a compute module in another maker's board, whose model does not name it.
        compatible = _text(root / "proc/device-tree/compatible").split("\0")
        self._is_raspberry_pi = any(name.startswith("raspberrypi,") for name in compatible)
        self._fixed = [
            FixedSensor("loadavg", partial(read_load, root)),
            FixedSensor("cpu", BusyTime().read),
            FixedSensor("cpufreq", partial(read_frequency, root)),
            FixedSensor("meminfo", read_memory),
            FixedSensor("disk", partial(read_disk, disk)),
        ]
        if root != Path("/"):
            self._fixed.append(FixedSensor("get_throttled", partial(read_recorded_bits, root / "get_throttled")))
        elif self._is_raspberry_pi:
            self._fixed.append(FixedSensor("get_throttled", partial(read_throttle_bits, _FIRMWARE)))
            if "brcm,bcm2712" in compatible:
                self._fixed.append(FixedSensor("pmic_read_adc", partial(read_rails, _FIRMWARE)))
        self._devices: dict[str, Device] = {}
        self._throttle = ThrottleMemory()

    def model(self) -> str | None:
        """The board's name from its device tree; None on machines without one."""
        return _text(self._root / "proc/device-tree/model")[:_MAX_MODEL] or None

    def cpu_features(self) -> list[str]:
        """The flags of the first core, sorted."""
        for line in _text(self._root / "proc/cpuinfo").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return sorted(value.split())
        return []

    def sensors(self) -> list[Sensor]:
        """All sensors that exist now; a sensor that existed before, and did not fail, is the same object."""
        devices: dict[str, Device] = {}
        for folder, prefix, make in _DEVICES:
            for name in entries(self._root / folder):
                if name.startswith(prefix):
                    devices[name] = self._devices.get(name) or make(self._root / folder / name)
        self._devices = devices
        return [*self._fixed, *devices.values()]

    def read(self) -> BoardReading:
        """Reads all sensors once, and blocks as long as they do. Rates are unknown at the first reading."""
        results = SensorPass()
        for sensor in self.sensors():
            results.read(sensor)
        return self.compose(results)

    def compose(self, results: SensorPass) -> BoardReading:
        """The readings of one pass as one.

        While a meter fails, power is unknown. While a source of throttling fails, "not throttled" is unknown.
        """
        readings, failures = results.readings.values(), results.failures
        for key in failures:
            self._devices.pop(key, None)
        zones, disks = _of_kind(ZoneReading, readings), _of_kind(DiskReading, readings)
        # The hottest of several zones of one type counts.
        temperatures = {zone.type: zone.temperature_c for zone in sorted(zones, key=lambda zone: zone.temperature_c)}
        soc_c, limit_c = soc_temperature(zones, is_raspberry_pi=self._is_raspberry_pi)
        throttles = {key: reading for key, reading in results.readings.items() if isinstance(reading, Throttle)}
        if "get_throttled" in throttles:
            # hwmon's alarm is what the firmware said up to 2 s ago, so it counts only where it cannot be asked.
            throttles = {key: reading for key, reading in throttles.items() if not key.startswith("hwmon")}
        unavailable = {key: failure.name for key, failure in failures.items() if failure.is_unavailable}
        is_power_partial = any(key.startswith(_POWER_KEYS) for key in failures.keys() - unavailable.keys())
        return BoardReading(
            thermal=Thermal(soc_c=soc_c, limit_c=limit_c, zones=temperatures),
            throttle=self._throttle.update(
                throttles.values(), is_incomplete=any(key.startswith(_THROTTLE_KEYS) for key in failures)
            ),
            power=Power() if is_power_partial else choose_power(_of_kind(Power, readings)),
            cpu=_merged(Cpu, readings),
            memory=_merged(Memory, readings),
            disk_free_mb=disks[0].free_mb if disks else None,
            errors={failure.name: failure.reason for failure in failures.values()},
            unavailable=frozenset(unavailable.values()),
        )


class ThrottleMemory:
    """Remembers what was seen: the kernel clears the firmware's bits every two seconds, and other boards have none."""

    def __init__(self) -> None:
        self._was_throttled = self._was_undervoltage = False

    def update(self, readings: Collection[Throttle], *, is_incomplete: bool) -> Throttle:
        """Takes in what each source reports now. `is_incomplete` means that a source that exists has failed.

        One source is enough to know the voltage, because cooling devices say nothing about it.
        """
        now = _any([reading.now for reading in readings], is_incomplete=is_incomplete)
        since_boot = _any([reading.since_boot for reading in readings], is_incomplete=is_incomplete)
        undervoltage = _any([reading.undervoltage_now for reading in readings])
        undervoltage_since_boot = _any([reading.undervoltage_since_boot for reading in readings])
        self._was_throttled |= bool(now or since_boot)
        self._was_undervoltage |= bool(undervoltage or undervoltage_since_boot)
        causes = {cause for reading in readings for cause in reading.causes}
        return Throttle(
            now=now,
            since_boot=self._was_throttled or (now if since_boot is None else since_boot),
            causes=tuple(cause for cause in ThrottleCause if cause in causes),
            undervoltage_now=undervoltage,
            undervoltage_since_boot=self._was_undervoltage
            or (undervoltage if undervoltage_since_boot is None else undervoltage_since_boot),
        )


def _any(values: Iterable[bool | None], *, is_incomplete: bool = False) -> bool | None:
    """True if any source says so, False if all that know say no and none has failed, otherwise unknown."""
    known = {value for value in values if value is not None}
    return True if True in known else False if known and not is_incomplete else None


def _of_kind(kind: type[R], readings: Iterable[object]) -> list[R]:
    return [reading for reading in readings if isinstance(reading, kind)]


def _merged(kind: type[P], readings: Iterable[object]) -> P:
    """One of this kind, with the fields that any reading has."""
    fields = (field for reading in _of_kind(kind, readings) for field in asdict(reading).items())
    return kind(**{name: value for name, value in fields if value is not None})


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except OSError:
        return ""
