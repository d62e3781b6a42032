"""What a sensor is: one device or file that can fail, or hang, without the others; and a pass over all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from edge_agent.board.files import is_offline, reason


class Sensor(Protocol):
    """key: which one it is, for as long as it exists. name: as it is told, once more of it is known."""

    @property
    def key(self) -> str: ...

    @property
    def name(self) -> str: ...

    def read(self, faults: dict[str, str]) -> object | None:
        """A reading; None where there is none yet, or never. May block.

        Raises OSError or ValueError. What is wrong with a lesser part goes into `faults`, and the rest is read.
        """


@dataclass(slots=True)
class Findings:
    """Of one pass. parts, failed: by the sensor's key. errors, offline: by its name, as in a BoardReading."""

    parts: dict[str, object] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)
    offline: set[str] = field(default_factory=set)

    def take(self, sensor: Sensor) -> Failure | None:
        """Reads one sensor. The failure is noted, and returned."""
        try:
            part = sensor.read(self.errors)
        except Exception as error:  # noqa: BLE001 - a fault of one reader must not cost the others' readings
            failure = Failure(sensor.key, sensor.name, reason(error), is_offline=is_offline(error))
            self.note(failure)
            return failure
        if part is not None:
            self.parts[sensor.key] = part
        return None

    def note(self, failure: Failure) -> None:
        self.failed.add(failure.key)
        self.errors[failure.name] = failure.reason
        if failure.is_offline:
            self.offline.add(failure.name)


@dataclass(frozen=True, slots=True)
class Failure:
    key: str
    name: str
    reason: str
    is_offline: bool
