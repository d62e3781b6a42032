"""What a sensor is: one device or file that can fail, or hang, without the others; and a pass over all sensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge_agent.board.files import is_offline, read_name, reason


class Sensor(Protocol):
    """key: identifies the sensor while it exists. name: for people, with its type once that is known."""

    @property
    def key(self) -> str: ...

    @property
    def name(self) -> str: ...

    def read(self) -> object | None:
        """A reading; None where there is none yet, or never. May block. Raises OSError or ValueError."""


class Device:
    """A sensor with a folder in /sys/class, identified at its first reading: numbers change from boot to boot.

    After a fault the board makes a new object of it, because its number may belong to another device then.
    """

    type_file = "type"

    def __init__(self, folder: Path) -> None:
        self.key = folder.name
        self.folder = folder
        # What the kernel calls it; empty until the first reading.
        self.type = ""

    @property
    def name(self) -> str:
        return f"{self.type} ({self.key})" if self.type else self.key

    def read(self) -> object | None:
        if not self.type:
            self.type = read_name(self.folder / self.type_file)
            self.identify()
        return self.measure()

    def identify(self) -> None:
        """Reads what does not change."""

    def measure(self) -> object | None:
        """See Sensor.read."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Failure:
    """is_offline: the sensor is switched off or closed to this process, and not broken."""

    name: str
    reason: str
    is_offline: bool = False


@dataclass(slots=True)
class SensorPass:
    """What one pass over the sensors gives, by the sensor's key."""

    readings: dict[str, object] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def add(self, sensor: Sensor) -> None:
        """Reads one sensor. Blocks as long as it does."""
        try:
            reading = sensor.read()
        except Exception as error:  # noqa: BLE001 - a fault in one reader must not cost the readings of the others
            self.failures[sensor.key] = Failure(sensor.name, reason(error), is_offline(error))
            return
        if reading is not None:
            self.readings[sensor.key] = reading
