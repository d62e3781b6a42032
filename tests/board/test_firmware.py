import errno
import struct
from pathlib import Path

import pytest

from edge_agent.board import firmware
from edge_agent.board.board import Board
from edge_agent.board.firmware import rails_power, read_rails, read_recorded_bits, read_throttle_bits, throttle_of
from edge_agent.board.reading import Scope, ThrottleCause
from tests.helpers.boards.trees import load

# As a Raspberry Pi 5 prints it, without trailing lines, which do not change the sums.
PMIC = """\
 3V7_WL_SW_A current(0)=0.10247270A
   3V3_SYS_A current(1)=0.10832820A
  VDD_CORE_A current(7)=1.42880000A
      HDMI_A current(22)=0.02002440A
 3V7_WL_SW_V volt(8)=3.71091200V
   3V3_SYS_V volt(9)=3.30910500V
  VDD_CORE_V volt(15)=0.90659250V
      HDMI_V volt(23)=5.07860000V
     EXT5V_V volt(24)=5.05716000V
      BATT_V volt(25)=0.00000000V
"""
PMIC_WATTS = (
    0.10247270 * 3.71091200 + 0.10832820 * 3.30910500 + 1.42880000 * 0.90659250 + 0.02002440 * 5.07860000
)  # fmt: skip


class Firmware:
    """Replaces the kernel's ioctl and checks the messages against the mailbox's protocol."""

    def __init__(self, patch: pytest.MonkeyPatch, device: Path) -> None:
        self.bits = 0x50000
        self.text = PMIC
        self.error: OSError | None = None
        self.code = 0x8000_0000
        self.device = device
        device.touch()
        patch.setattr(firmware, "ioctl", self.ioctl)

    def ioctl(self, file: int, request: int, message: bytearray, mutate: bool) -> int:  # noqa: FBT001
        assert Path(f"/proc/self/fd/{file}").readlink() == self.device
        assert mutate
        assert request == 0xC008_6400  # _IOWR(100, 0, char *) with pointers of 8 bytes
        size, code, tag, room, indicator = struct.unpack_from("=5I", message)
        assert (size, code, indicator) == (len(message), 0, 0)
        assert room == size - 24
        assert message[-4:] == bytes(4)
        if self.error is not None:
            raise self.error
        if tag == 0x0003_0046:
            assert message[20:24] == bytes(4), "the firmware would clear bits"
            struct.pack_into("=I", message, 20, self.bits)
        else:
            assert tag == 0x0003_0080
            assert message[20:38] == bytes(4) + b"pmic_read_adc\0"
            answer = self.text.encode() + b"\0"
            message[24 : 24 + len(answer)] = answer
        struct.pack_into("=I", message, 4, self.code)
        return 0


@pytest.fixture
def pi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Firmware:
    return Firmware(monkeypatch, tmp_path / "vcio")


def test_throttle_bits_come_from_the_firmware(pi: Firmware) -> None:
    assert read_throttle_bits(pi.device) == throttle_of(0x50000)


def test_a_firmware_that_does_not_answer_is_an_error(pi: Firmware) -> None:
    pi.code = 0x8000_0001
    with pytest.raises(ValueError, match="does not answer: 0x80000001"):
        read_throttle_bits(pi.device)
    pi.error = OSError(errno.ETIMEDOUT, "timed out")
    with pytest.raises(OSError, match="timed out"):
        read_rails(pi.device)


def test_a_kernel_without_the_device_has_no_bits_and_no_rails(tmp_path: Path) -> None:
    assert read_throttle_bits(tmp_path / "vcio") is None
    assert read_rails(tmp_path / "vcio") is None


def test_power_is_volts_times_amperes_of_the_rails_that_have_both(pi: Firmware) -> None:
    reading = read_rails(pi.device)
    assert reading is not None
    assert reading.watts == pytest.approx(PMIC_WATTS)
    assert (reading.scope, reading.source) == (Scope.RAILS, "pmic")


@pytest.mark.parametrize(
    "text",
    [
        'error=1 error_msg="Command not registered"',
        "A_A current(0)=1.0A\n",
        "A_A current(0)=nanA\nA_V volt(1)=1.0V\n",
        "A_A current(0)=1000.0A\nA_V volt(1)=5.0V\n",
    ],
)
def test_missing_and_absurd_rails_are_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"absurd|no rails"):
        rails_power(text)


UNDERVOLTAGE, THERMAL, CAP = ThrottleCause.UNDERVOLTAGE, ThrottleCause.THERMAL, ThrottleCause.CAP


@pytest.mark.parametrize(
    ("bits", "now", "since_boot", "causes"),
    [
        (0x0, False, False, ()),
        (0x1, False, False, (UNDERVOLTAGE,)),
        (0x2, True, False, (CAP,)),
        (0x4, True, False, (THERMAL,)),
        (0x8, True, False, (THERMAL,)),
        (0x5, True, False, (UNDERVOLTAGE,)),
        (0xD, True, False, (UNDERVOLTAGE, THERMAL)),
        (0xE000E, True, True, (THERMAL, CAP)),
        (0x10000, False, False, ()),
        (0x20000, False, True, ()),
        (0x40000, False, True, ()),
        (0x80000, False, True, ()),
    ],
)
def test_bits_of_the_firmware(bits: int, *, now: bool, since_boot: bool, causes: tuple[ThrottleCause, ...]) -> None:
    throttle = throttle_of(bits)
    assert (throttle.now, throttle.since_boot, throttle.causes) == (now, since_boot, causes)
    assert throttle.undervoltage_now is bool(bits & 0x1)
    assert throttle.undervoltage_since_boot is bool(bits & 0x10000)


@pytest.mark.parametrize(("text", "bits"), [("throttled=0x50005\n", 0x50005), ("0x4", 0x4), ("50005\n", 0x50005)])
def test_in_a_recorded_tree_the_bits_are_in_a_file(tmp_path: Path, text: str, bits: int) -> None:
    (tmp_path / "get_throttled").write_text(text)
    assert read_recorded_bits(tmp_path / "get_throttled") == throttle_of(bits)


@pytest.mark.parametrize("text", ["", "throttled=", "0xfffffffff", "many", "-1", "error=1"])
def test_other_text_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "get_throttled").write_text(text)
    with pytest.raises(ValueError, match="not throttle bits"):
        read_recorded_bits(tmp_path / "get_throttled")


def test_in_another_root_no_device_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("pi5").write(tmp_path)
    monkeypatch.setattr(firmware, "ask_firmware", lambda *_: pytest.fail("the firmware is asked"))
    assert Board(tmp_path, tmp_path).read().throttle.now is False
