"""What the firmware of a Raspberry Pi reports: its throttle bits, and the rails of a Pi 5's power chip.

The firmware is asked through /dev/vcio, as vcgencmd of raspberrypi/utils does, without a process. In any root but `/`,
no device is opened, and the bits come from a file `get_throttled`.
"""

import os
import re
import struct
from fcntl import ioctl
from pathlib import Path

from edge_agent.board.files import read_text
from edge_agent.board.power import measured
from edge_agent.board.reading import Power, Scope, Throttle, ThrottleCause

_IOCTL_PROPERTY = 0xC000_0000 | struct.calcsize("P") << 16 | 100 << 8  # _IOWR(100, 0, char *)
_GET_THROTTLED, _GENERAL_COMMAND = 0x0003_0046, 0x0003_0080
_ANSWERED = 0x8000_0000
_MESSAGE_BYTES = 1024

# Throttle bits (raspberrypi/documentation, graphics-utilities.adoc).
_UNDERVOLTAGE, _CAPPED, _THROTTLED, _SOFT_LIMIT = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_SLOWED = _CAPPED | _THROTTLED | _SOFT_LIMIT
_SINCE_BOOT = 16  # the same bits, shifted by this much

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


def read_throttle_bits(device: Path) -> Throttle | None:
    """Undervoltage, capped, throttled, soft limit: now, and since the bits were last cleared."""
    # A value of 0 clears none of the bits since boot.
    answer = ask_firmware(device, _GET_THROTTLED, bytes(4))
    return None if answer is None else throttle_of(struct.unpack("=I", answer)[0])


def read_recorded_bits(file: Path) -> Throttle | None:
    """The same from a recorded tree; None where they were not recorded."""
    if not file.exists():
        return None
    text = read_text(file)
    number = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", text)
    if number is None:
        raise ValueError(f"not throttle bits: {text[:40]!r}")
    return throttle_of(int(number[1], 16))


def throttle_of(bits: int) -> Throttle:
    """Takes the bits as `vcgencmd get_throttled` prints them."""
    before, is_low = bits >> _SINCE_BOOT, bool(bits & _UNDERVOLTAGE)
    causes = {
        ThrottleCause.UNDERVOLTAGE: is_low,
        # Low voltage throttles as heat does and sets the same bit.
        ThrottleCause.THERMAL: bits & _SOFT_LIMIT or (bits & _THROTTLED and not is_low),
        ThrottleCause.CAP: bits & _CAPPED,
    }
    return Throttle(
        now=bool(bits & _SLOWED),
        since_boot=bool(before & _SLOWED),
        causes=tuple(cause for cause, is_there in causes.items() if is_there),
        undervoltage_now=is_low,
        undervoltage_since_boot=bool(before & _UNDERVOLTAGE),
    )


def read_rails(device: Path) -> Power | None:
    """Volts times amperes of the rails that a Pi 5's power chip feeds, without what USB, fan and HATs draw.

    Of the 5 V input, only the voltage is measured.
    """
    message = (bytes(4) + b"pmic_read_adc").ljust(_MESSAGE_BYTES, b"\0")
    answer = ask_firmware(device, _GENERAL_COMMAND, message)
    return None if answer is None else rails_power(answer[4:].partition(b"\0")[0].decode("ascii", "replace"))


def rails_power(text: str) -> Power:
    """Takes the text that `vcgencmd pmic_read_adc` prints. Raises ValueError."""
    rails: dict[str, dict[str, float]] = {}
    for rail, unit, value in _RAIL.findall(text):
        rails.setdefault(rail, {})[unit] = float(value)
    watts = [values["A"] * values["V"] for values in rails.values() if len(values) == 2]
    if not watts:
        raise ValueError("no rails")
    return measured(sum(watts), Scope.RAILS, "pmic")
