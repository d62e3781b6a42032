"""Whether, and why, a board is slowed down: one answer from what its firmware and kernel report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.board.reading import Throttle, ThrottleCause

# Bits of a Raspberry Pi's firmware (raspberrypi/documentation, graphics-utilities.adoc).
UNDERVOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_SLOWED = CAPPED | THROTTLED | SOFT_LIMIT
_SINCE_BOOT = 16  # the same bits, shifted by this much
ALL_BITS = 0xF | 0xF << _SINCE_BOOT


@dataclass(frozen=True, slots=True)
class FirmwareBits:
    """As `vcgencmd get_throttled` gives them."""

    bits: int


@dataclass(frozen=True, slots=True)
class CoolingReading:
    """is_active: the kernel slows down cores, or another unit of the SoC, to cool it."""

    is_active: bool


@dataclass(frozen=True, slots=True)
class UndervoltageReading:
    """is_low: the supply was too low within the last two seconds (kernel: drivers/hwmon/raspberrypi-hwmon.c)."""

    is_low: bool


@dataclass(frozen=True, slots=True)
class OverCurrentReading:
    """Counts since boot of the events that slowed a Jetson down: undervoltage, and average or instantaneous current."""

    undervoltage: int
    over_current: int


class ThrottleModel:
    """Remembers what was seen: rpi_volt clears the firmware's bits every two seconds, and other boards have none."""

    def __init__(self) -> None:
        self._was_throttled = False
        self._was_undervoltage = False
        self._counted: OverCurrentReading | None = None

    def update(
        self,
        firmware: FirmwareBits | None,
        alarms: Sequence[UndervoltageReading],
        cooling: Sequence[CoolingReading],
        over_current: OverCurrentReading | None,
        *,
        is_blind: bool = False,
    ) -> Throttle:
        """Takes in one reading. None or empty: there is no such source. is_blind: an existing source is silent."""
        causes: set[ThrottleCause] = set()
        throttled: list[bool] = []
        undervoltage = [alarm.is_low for alarm in alarms]
        if firmware is not None:
            bits, before = firmware.bits, firmware.bits >> _SINCE_BOOT
            is_low = bool(bits & UNDERVOLTAGE)
            throttled.append(bool(bits & _SLOWED))
            undervoltage.append(is_low)
            self._was_throttled |= bool(before & _SLOWED)
            self._was_undervoltage |= bool(before & UNDERVOLTAGE)
            if bits & CAPPED:
                causes.add(ThrottleCause.CAP)
            # Low voltage throttles as heat does and sets the same bit.
            if bits & SOFT_LIMIT or (bits & THROTTLED and not is_low):
                causes.add(ThrottleCause.THERMAL)
        if cooling:
            throttled.append(any(device.is_active for device in cooling))
            if throttled[-1]:
                causes.add(ThrottleCause.THERMAL)
        if over_current is not None:
            self._was_throttled |= over_current.undervoltage + over_current.over_current > 0
            self._was_undervoltage |= over_current.undervoltage > 0
            if self._counted is not None:
                is_low = over_current.undervoltage > self._counted.undervoltage
                is_over = over_current.over_current > self._counted.over_current
                throttled.append(is_low or is_over)
                undervoltage.append(is_low)
                if is_over:
                    causes.add(ThrottleCause.OVER_CURRENT)
            self._counted = over_current
        if any(undervoltage):
            causes.add(ThrottleCause.UNDERVOLTAGE)
        self._was_throttled |= any(throttled)
        self._was_undervoltage |= any(undervoltage)
        is_counted = over_current is not None
        sources = {
            "firmware": firmware is not None,
            "supply alarm": bool(alarms),
            "cooling devices": bool(cooling),
            "over-current counters": is_counted,
        }
        return Throttle(
            now=_answer(any(throttled), is_known=bool(throttled), is_blind=is_blind),
            since_boot=_answer(self._was_throttled, is_known=bool(throttled) or is_counted, is_blind=is_blind),
            causes=tuple(cause for cause in ThrottleCause if cause in causes),
            undervoltage_now=_answer(any(undervoltage), is_known=bool(undervoltage), is_blind=is_blind),
            undervoltage_since_boot=_answer(
                self._was_undervoltage, is_known=bool(undervoltage) or is_counted, is_blind=is_blind
            ),
            sources=tuple(name for name, is_there in sources.items() if is_there),
        )


def _answer(value: bool, *, is_known: bool, is_blind: bool) -> bool | None:  # noqa: FBT001
    """True is true if one source says so. False takes the word of every source, else it is unknown."""
    return True if value else False if is_known and not is_blind else None
