from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.board.board import Board
from edge_agent.board.reading import Throttle, ThrottleCause
from edge_agent.board.thermal import CoolingDevice
from edge_agent.board.throttle import (
    CoolingReading,
    FirmwareBits,
    OverCurrentReading,
    ThrottleModel,
    UndervoltageReading,
)
from tests.helpers.boards.trees import load

COOL, COOLING = CoolingReading(is_active=False), CoolingReading(is_active=True)
WELL, LOW = UndervoltageReading(is_low=False), UndervoltageReading(is_low=True)


@pytest.mark.parametrize(
    ("bits", "now", "since_boot", "causes"),
    [
        (0x0, False, False, ()),
        (0x1, False, False, (ThrottleCause.UNDERVOLTAGE,)),
        (0x2, True, True, (ThrottleCause.CAP,)),
        (0x4, True, True, (ThrottleCause.THERMAL,)),
        (0x8, True, True, (ThrottleCause.THERMAL,)),
        (0x5, True, True, (ThrottleCause.UNDERVOLTAGE,)),
        (0xD, True, True, (ThrottleCause.UNDERVOLTAGE, ThrottleCause.THERMAL)),
        (0xE000E, True, True, (ThrottleCause.THERMAL, ThrottleCause.CAP)),
        (0x10000, False, False, ()),
        (0x20000, False, True, ()),
        (0x40000, False, True, ()),
        (0x80000, False, True, ()),
    ],
)
def test_bits_of_the_firmware(bits: int, *, now: bool, since_boot: bool, causes: tuple[ThrottleCause, ...]) -> None:
    throttle = ThrottleModel().update(FirmwareBits(bits), [], [], None)
    assert (throttle.now, throttle.since_boot, throttle.causes) == (now, since_boot, causes)
    assert throttle.undervoltage_now is bool(bits & 0x1)
    assert throttle.undervoltage_since_boot is bool(bits & 0x10001)


def test_what_was_seen_is_kept_when_the_kernel_clears_the_firmwares_bits() -> None:
    model = ThrottleModel()
    model.update(FirmwareBits(0x50005), [LOW], [], None)
    assert model.update(FirmwareBits(0), [WELL], [], None) == Throttle(
        now=False, since_boot=True, undervoltage_now=False, undervoltage_since_boot=True
    )


def test_one_source_is_enough_for_undervoltage() -> None:
    model = ThrottleModel()
    assert model.update(FirmwareBits(0), [LOW], [], None).undervoltage_now
    assert model.update(None, [WELL], [], None).undervoltage_now is False
    assert model.update(FirmwareBits(1), [WELL], [], None).undervoltage_now


def test_without_any_source_nothing_is_known() -> None:
    assert ThrottleModel().update(None, [], [], None) == Throttle()


def test_active_cooling_devices_throttle() -> None:
    model = ThrottleModel()
    assert model.update(None, [], [COOL, COOL], None) == Throttle(now=False, since_boot=False)
    throttled = Throttle(now=True, since_boot=True, causes=(ThrottleCause.THERMAL,))
    assert model.update(None, [], [COOL, COOLING], None) == throttled
    assert model.update(None, [], [COOL], None) == Throttle(now=False, since_boot=True)


def test_no_throttling_takes_the_word_of_every_source() -> None:
    model = ThrottleModel()
    assert model.update(None, [], [COOL], None, is_blind=True) == Throttle()
    assert model.update(None, [], [COOLING], None, is_blind=True).now is True
    assert model.update(None, [], [COOL], None, is_blind=True) == Throttle(since_boot=True)


def counts(undervoltage: int, over_current: int) -> OverCurrentReading:
    return OverCurrentReading(undervoltage=undervoltage, over_current=over_current)


def test_over_current_events_count_while_the_counter_rises() -> None:
    model = ThrottleModel()
    first = model.update(None, [], [], counts(0, 37))
    assert first == Throttle(since_boot=True, undervoltage_since_boot=False)
    same = model.update(None, [], [], counts(0, 37))
    assert same == Throttle(now=False, since_boot=True, undervoltage_now=False, undervoltage_since_boot=False)
    more = model.update(None, [], [], counts(0, 40))
    assert (more.now, more.causes, more.undervoltage_now) == (True, (ThrottleCause.OVER_CURRENT,), False)
    low = model.update(None, [], [], counts(1, 40))
    assert (low.now, low.causes, low.undervoltage_now) == (True, (ThrottleCause.UNDERVOLTAGE,), True)
    assert model.update(None, [], [], counts(0, 0)).now is False  # the driver was loaded again


def test_alarms_that_do_not_throttle_are_not_counted(tmp_path: Path) -> None:
    tree = load("orin-nano")
    tree.files["sys/class/hwmon/hwmon3/oc3_throt_en"] = b"0\n"
    tree.write(tmp_path)
    assert Board(tmp_path, tmp_path).read().throttle.since_boot is False


def test_a_rising_counter_is_a_cause(tmp_path: Path) -> None:
    load("orin-nano").write(tmp_path)
    board = Board(tmp_path, tmp_path)
    board.read()
    (tmp_path / "sys/class/hwmon/hwmon3/oc2_event_cnt").write_text("1\n")
    assert board.read().throttle.causes == (ThrottleCause.OVER_CURRENT,)
    assert board.read().throttle.now is False


@pytest.mark.parametrize(
    ("cooling_type", "is_throttling"),
    [
        ("cpufreq-cpu0", True),
        ("thermal-cpufreq-0", True),
        ("devfreq-fb000000.gpu", True),
        ("thermal-devfreq-0", True),
        ("cpu-throttle-alert", True),
        ("Processor", True),
        ("pwm-fan", False),
        ("hot-surface-alert", False),
        ("intel_powerclamp", False),
    ],
)
def test_what_slows_the_board_down_is_throttling_and_a_fan_is_not(
    cooling_type: str, *, is_throttling: bool, tmp_path: Path
) -> None:
    device = tmp_path / "cooling_device7"
    device.mkdir()
    (device / "type").write_text(cooling_type + "\n")
    (device / "cur_state").write_text("1\n")
    assert CoolingDevice(device).read() == (COOLING if is_throttling else None)


def test_throttling_is_unknown_when_a_cooling_device_fails(tmp_path: Path) -> None:
    load("rk3588-mainline").write(tmp_path)
    board = Board(tmp_path, tmp_path)
    assert board.read().throttle.now is False
    (tmp_path / "sys/class/thermal/cooling_device1/cur_state").write_text("-22\n")
    reading = board.read()
    assert reading.throttle.now is None
    assert reading.errors == {"cpufreq-cpu4 (cooling_device1)": "absurd: -22"}
    (tmp_path / "sys/class/thermal/cooling_device4/cur_state").write_text("broken: no matter, it is a fan\n")
    assert set(board.read().errors) == {"cpufreq-cpu4 (cooling_device1)"}


def test_throttling_is_unknown_when_an_over_current_counter_is_missing(tmp_path: Path) -> None:
    tree = load("orin-nano")
    del tree.files["sys/class/hwmon/hwmon3/oc1_event_cnt"]
    tree.write(tmp_path)
    throttle = Board(tmp_path, tmp_path).read().throttle
    assert (throttle.now, throttle.since_boot) == (None, None)
