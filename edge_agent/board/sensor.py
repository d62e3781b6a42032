"""A sensor is one device or file that can fail or hang without the others. A pass reads all sensors."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.board.files import read_text

# The kernel allows 20 characters for the type of a zone. Names and reasons stand in every health document.
_MAX_NAME = 64
_MAX_REASON = 200
_UNAVAILABLE = {errno.EAGAIN, errno.ENODATA, errno.EACCES, errno.EPERM}


@dataclass(frozen=True, slots=True)
class FixedSensor:
    """A sensor that exists as long as the board, whether it has a reading or not."""

    key: str
    """Identifies a sensor while it exists."""
    read: Callable[[], object | None]
    """Gives a reading; None where there is none yet, or never. May block. Raises OSError or ValueError."""

    @property
    def name(self) -> str:
        """For people, with its type once that is known."""
        return self.key


class Device:
    """A sensor with a folder in /sys/class, identified at its first reading, because numbers change from boot to boot.

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
            self.type = read_text(self.folder / self.type_file)[:_MAX_NAME]
            if not self.type:
                raise ValueError(f"{self.type_file}: empty")
            self.identify()
        return self.measure()

    def identify(self) -> None:
        """Reads what does not change."""

    def measure(self) -> object | None:
        """See FixedSensor.read."""
        raise NotImplementedError


Sensor = FixedSensor | Device


@dataclass(frozen=True, slots=True)
class Failure:
    name: str
    reason: str
    is_unavailable: bool = False
    """Whether the sensor is switched off, or closed to this process, and not broken."""


@dataclass(slots=True)
class SensorPass:
    """What one pass over the sensors gives, by their keys."""

    readings: dict[str, object] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def read(self, sensor: Sensor) -> None:
        """Reads one sensor. Blocks as long as it does."""
        try:
            reading = sensor.read()
        except Exception as error:  # noqa: BLE001 - a fault in one reader must not cost the readings of the others
            number, text = (error.errno, error.strerror) if isinstance(error, OSError) else (None, str(error))
            reason = (text or type(error).__name__)[:_MAX_REASON]
            self.failures[sensor.key] = Failure(sensor.name, reason, number in _UNAVAILABLE)
            return
        if reading is not None:
            self.readings[sensor.key] = reading
