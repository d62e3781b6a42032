"""What the firmware of a Raspberry Pi reports: its throttle bits, and the rails of a Pi 5's power chip.

The firmware is asked through /dev/vcio, as vcgencmd of raspberrypi/utils does, without a process. In another root than
`/` no device is opened: the bits come from a file `get_throttled`.
"""

from __future__ import annotations

import os
import re
import struct
from fcntl import ioctl
from pathlib import Path

from edge_agent.board.files import read_text
from edge_agent.board.power import PowerReading, plausible_watts
from edge_agent.board.reading import Scope
from edge_agent.board.throttle import ALL_BITS, FirmwareBits

_IOCTL_PROPERTY = 0xC000_0000 | struct.calcsize("P") << 16 | 100 << 8  # _IOWR(100, 0, char *)
_GET_THROTTLED, _GENERAL_COMMAND = 0x0003_0046, 0x0003_0080
_ANSWERED = 0x8000_0000
_MESSAGE_BYTES = 1024

# What vcgencmd printed, recorded beside /sys and /proc; or a file of the kernel's driver, whose cache is old.
_RECORDED = ("get_throttled", "sys/devices/platform/soc*/*firmware/get_throttled")
_RAIL = re.compile(r"(\S+)_([AV]) (?:current|volt)\(\d+\)=([0-9]+\.[0-9]+)[AV]")


def ask_firmware(device: Path, tag: int, value: bytes) -> bytes | None:
    """The firmware's answer, as long as `value`; None where there is no such device. Raises OSError, ValueError."""
    size = 6 * 4 + len(value)
    message = bytearray(struct.pack("=5I", size, 0, tag, len(value), 0) + value + bytes(4))
    try:
        file = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        ioctl(file, _IOCTL_PROPERTY, message, True)
    finally:
        os.close(file)
    code = struct.unpack_from("=I", message, 4)[0]
    if code != _ANSWERED:
        raise ValueError(f"the firmware does not answer: {code:#x}")
    return bytes(message[20:-4])


class ThrottleBits:
    """Undervoltage, capped, throttled, soft limit: now, and since the bits were last cleared."""

    key = name = "get_throttled"

    def __init__(self, root: Path, device: Path | None) -> None:
        """device: None where none may be opened."""
        self._root = root
        self._device = device

    def read(self) -> FirmwareBits | None:
        if self._device is not None:
            # A value of 0 clears none of the bits since boot.
            answer = ask_firmware(self._device, _GET_THROTTLED, bytes(4))
            return None if answer is None else FirmwareBits(struct.unpack("=I", answer)[0] & ALL_BITS)
        for pattern in _RECORDED:
            for path in sorted(self._root.glob(pattern)):
                text = read_text(path)
                number = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", text)
                if number is None:
                    raise ValueError(f"not throttle bits: {text[:40]!r}")
                return FirmwareBits(int(number[1], 16) & ALL_BITS)
        return None


class PowerRails:
    """Volts times amperes of the rails that a Pi 5's power chip feeds, without what USB, fan and HATs draw.

    Of the 5 V input, only the voltage is measured.
    """

    key = name = "pmic_read_adc"

    def __init__(self, device: Path) -> None:
        self._device = device
        self._is_missing = self._has_worked = False

    def read(self) -> PowerReading | None:
        if self._is_missing:
            return None
        message = (bytes(4) + b"pmic_read_adc").ljust(_MESSAGE_BYTES, b"\0")
        answer = ask_firmware(self._device, _GENERAL_COMMAND, message)
        reading = None if answer is None else rails_power(answer[4:].partition(b"\0")[0].decode("ascii", "replace"))
        if reading is None and self._has_worked:
            raise ValueError("no rails")
        # Other boards do not know the command.
        self._is_missing = reading is None
        self._has_worked = reading is not None
        return reading


def rails_power(text: str) -> PowerReading | None:
    """text: as `vcgencmd pmic_read_adc` prints it. Raises ValueError."""
    measured: dict[str, dict[str, float]] = {}
    for rail, unit, value in _RAIL.findall(text):
        measured.setdefault(rail, {})[unit] = float(value)
    watts = [plausible_watts(of["A"] * of["V"]) for of in measured.values() if len(of) == 2]
    return PowerReading(plausible_watts(sum(watts)), Scope.RAILS, "pmic") if watts else None
