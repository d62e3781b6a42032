"""What a board reports at one moment. None means unknown or not there; a 0 was measured."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class ThrottleCause(StrEnum):
    """Why kernel or firmware slow the board down."""

    UNDERVOLTAGE = "undervoltage"
    THERMAL = "thermal"
    CAP = "cap"


class Scope(StrEnum):
    """What a measurement of power covers, the widest scope first."""

    BOARD = "board"
    MODULE = "module"
    RAILS = "rails"
    SOC = "soc"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermal:
    soc_c: float | None = None
    limit_c: float | None = None
    """Where kernel or firmware begin to slow the SoC down because of heat."""
    zones: Mapping[str, float] = field(default_factory=dict)
    """The temperature in °C by type of zone."""

    @property
    def headroom_c(self) -> float | None:
        return None if self.soc_c is None or self.limit_c is None else round(self.limit_c - self.soc_c, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    now: bool | None = None
    since_boot: bool | None = None
    """Since boot where the firmware keeps track, otherwise since this program started."""
    causes: tuple[ThrottleCause, ...] = ()
    """What slows the board down now. Undervoltage is named even before anything is slowed down for it."""
    undervoltage_now: bool | None = None
    undervoltage_since_boot: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    watts: float | None = None
    scope: Scope = Scope.NONE
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The frequencies are those of the fastest cores."""

    load1: float | None = None
    percent: float | None = None
    """The busy time since the previous reading."""
    freq_mhz: float | None = None
    freq_max_mhz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A MB is 10⁶ bytes."""

    total_mb: float | None = None
    available_mb: float | None = None
    swap_used_mb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardReading:
    thermal: Thermal = Thermal()
    throttle: Throttle = Throttle()
    power: Power = Power()
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    disk_free_mb: float | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    """Why a sensor could not be read, by the sensor's name."""
    unavailable: frozenset[str] = frozenset()
    """The sensors of `errors` that are switched off, or closed to this process."""

    @property
    def has_faults(self) -> bool:
        return bool(self.errors.keys() - self.unavailable)

    def as_health(self) -> dict[str, Any]:
        """The sections of health that the board fills."""
        thermal, throttle, power = self.thermal, self.throttle, self.power
        return {
            "thermal": {
                "soc_c": thermal.soc_c,
                "limit_c": thermal.limit_c,
                "headroom_c": thermal.headroom_c,
                "zones": thermal.zones,
                "throttled_now": throttle.now,
                "throttled_since_boot": throttle.since_boot,
                "causes": list(throttle.causes),
            },
            "power": {
                "watts": power.watts,
                "scope": power.scope,
                "source": power.source,
                "undervoltage_now": throttle.undervoltage_now,
                "undervoltage_since_boot": throttle.undervoltage_since_boot,
            },
            "cpu": asdict(self.cpu),
            "memory": asdict(self.memory),
            "disk": {"free_mb": self.disk_free_mb},
            "sensor_errors": self.errors,
        }
