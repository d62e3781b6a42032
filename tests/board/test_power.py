from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.board.board import Board
from edge_agent.board.hwmon import FanReading, HwmonChip
from edge_agent.board.power import PowerReading, Rapl, choose_power
from edge_agent.board.reading import Power, Scope
from tests.helpers.boards.trees import load


def chip(folder: Path, name: str, **files: str) -> HwmonChip:
    path = folder / "hwmon4"
    path.mkdir(exist_ok=True)
    for file, content in {"name": name, **files}.items():
        (path / file).write_text(content + "\n")
    return HwmonChip(path)


def test_the_chips_own_product_counts(tmp_path: Path) -> None:
    files = {"in0_input": "3", "in1_input": "5000", "curr1_input": "1000", "power1_input": "4750000"}
    assert chip(tmp_path, "ina226", **files).read() == PowerReading(4.75, Scope.BOARD, "ina226")


def test_a_chip_without_a_product_gives_voltage_times_current(tmp_path: Path) -> None:
    one = chip(tmp_path, "ina219", in0_input="3", in1_input="5000", curr1_input="1200")
    assert one.read() == PowerReading(6.0, Scope.BOARD, "ina219")


@pytest.mark.parametrize("power", ["-5000000", "2000000000", "", "garbage"])
def test_absurd_power_is_an_error(tmp_path: Path, power: str) -> None:
    with pytest.raises(ValueError, match=r"absurd|empty|not a number"):
        chip(tmp_path, "ina226", power1_input=power).read()


def test_a_negative_bus_voltage_is_an_error_for_any_current(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absurd: -5000"):
        chip(tmp_path, "ina219", in1_input="-5000", curr1_input="-1200").read()
    with pytest.raises(ValueError, match="absurd: -5000"):
        chip(tmp_path, "ina3221", **(channels() | {"in1_input": "-5000", "curr1_input": "-1"})).read()


def channels(**labels: str) -> dict[str, str]:
    """Three channels of 5 V and 1, 2 and 3 A; the fourth is their sum."""
    files = {"curr4_input": "6000", "in7_label": "sum of shunt voltages"}
    for channel in (1, 2, 3):
        files |= {f"in{channel}_input": "5000", f"curr{channel}_input": f"{channel}000", f"in{channel}_enable": "1"}
    return files | {f"{name}_label": label for name, label in labels.items()}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"in1": "VDD_CPU", "in2": "VDD_IN", "in3": "VDD_SOC"}, PowerReading(10.0, Scope.MODULE, "ina3221 VDD_IN")),
        ({"in1": "POM_5V_IN", "in2": "A", "in3": "B"}, PowerReading(5.0, Scope.MODULE, "ina3221 POM_5V_IN")),
        ({"in1": "VDD_GPU_SOC", "in2": "VDD_CPU_CV", "in3": "VIN_SYS_5V0"}, PowerReading(30.0, Scope.RAILS, "ina3221")),
        ({"in1": "NC", "in2": "VDDQ_VDD2_1V8AO", "in3": "NC"}, PowerReading(10.0, Scope.RAILS, "ina3221")),
        ({}, PowerReading(30.0, Scope.RAILS, "ina3221")),
    ],
)
def test_the_modules_input_or_the_sum_of_its_rails(
    tmp_path: Path, labels: dict[str, str], expected: PowerReading
) -> None:
    assert chip(tmp_path, "ina3221", **channels(**labels)).read() == expected


def test_a_channel_that_is_off_is_not_read(tmp_path: Path) -> None:
    files = channels() | {"in3_enable": "0", "in3_input": "", "curr3_input": ""}
    assert chip(tmp_path, "ina3221", **files).read() == PowerReading(15.0, Scope.RAILS, "ina3221")


def test_a_missing_channel_is_an_error_and_no_sum(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        chip(tmp_path, "ina3221", **(channels() | {"curr2_input": ""})).read()
    (tmp_path / "hwmon4/curr2_input").unlink()
    with pytest.raises(FileNotFoundError):
        HwmonChip(tmp_path / "hwmon4").read()


def test_the_modules_input_does_not_depend_on_the_rails_it_feeds(tmp_path: Path) -> None:
    labels = channels(in1="VDD_IN", in2="VDD_CPU_GPU_CV", in3="VDD_SOC")
    one = chip(tmp_path, "ina3221", **(labels | {"curr2_input": "-8", "curr3_input": ""}))
    assert one.read() == PowerReading(5.0, Scope.MODULE, "ina3221 VDD_IN")


def test_a_channel_that_lost_its_label_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels of some"):
        chip(tmp_path, "ina3221", **channels(in2="VDD_CPU_GPU_CV", in3="VDD_SOC")).read()


def test_another_chip_with_the_number_of_a_failed_one_is_identified(tmp_path: Path) -> None:
    one = chip(tmp_path, "ina219", power1_input="1000000")
    assert isinstance(one.read(), PowerReading)
    chip(tmp_path, "pwmfan", fan1_input="3000", power1_input="gone")
    with pytest.raises(ValueError, match="not a number"):
        one.read()
    assert one.read() == FanReading(rpm=3000)


def test_of_several_fans_the_fastest_counts(tmp_path: Path) -> None:
    assert chip(tmp_path, "thinkpad", fan1_input="0", fan2_input="2873").read() == FanReading(rpm=2873)
    assert chip(tmp_path, "thinkpad", fan1_input="0", fan2_input="0").read() == FanReading(rpm=0)
    with pytest.raises(ValueError, match="absurd"):
        chip(tmp_path, "thinkpad", fan2_input="65535").read()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def rapl(folder: Path, name: str = "package-0", energy_uj: int = 0) -> tuple[Rapl, Path, Clock]:
    path, clock = folder / "intel-rapl:0", Clock()
    path.mkdir()
    (path / "name").write_text(name + "\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text("262143328850\n")
    return Rapl(path, clock), path / "energy_uj", clock


def test_watts_are_the_energy_between_two_readings(tmp_path: Path) -> None:
    one, energy, clock = rapl(tmp_path, energy_uj=10_000_000)
    assert one.read() is None
    clock.now, _ = 102.0, energy.write_text("40000000\n")
    assert one.read() == PowerReading(15.0, Scope.SOC, "rapl")


def test_the_counter_wraps(tmp_path: Path) -> None:
    one, energy, clock = rapl(tmp_path, energy_uj=262_143_328_850 - 4_000_000)
    one.read()
    clock.now, _ = 101.0, energy.write_text("5000000\n")
    assert one.read() == PowerReading(9.0, Scope.SOC, "rapl")


def test_after_a_fault_watts_need_two_readings_again(tmp_path: Path) -> None:
    one, energy, clock = rapl(tmp_path)
    one.read()
    energy.write_text("")
    with pytest.raises(ValueError, match="empty"):
        one.read()
    clock.now, _ = 500.0, energy.write_text("7000000\n")
    assert one.read() is None
    clock.now, _ = 501.0, energy.write_text("9000000\n")
    assert one.read() == PowerReading(2.0, Scope.SOC, "rapl")


def test_an_interval_may_be_too_short_for_a_rate(tmp_path: Path) -> None:
    one, energy, clock = rapl(tmp_path)
    one.read()
    clock.now, _ = 100.01, energy.write_text("500000\n")
    assert one.read() is None
    clock.now, _ = 101.0, energy.write_text("1000000\n")
    assert one.read() == PowerReading(1.0, Scope.SOC, "rapl")


def test_the_platforms_counter_covers_the_board(tmp_path: Path) -> None:
    one, energy, clock = rapl(tmp_path, name="psys")
    one.read()
    clock.now, _ = 101.0, energy.write_text("3000000\n")
    assert one.read() == PowerReading(3.0, Scope.BOARD, "rapl")


def test_a_laptop_counts_its_package_once(tmp_path: Path) -> None:
    load("x86-laptop").write(tmp_path)
    board = Board(tmp_path, tmp_path)
    keys = [sensor.key for sensor in board.sensors() if isinstance(sensor, Rapl)]
    assert keys == ["intel-rapl:0", "intel-rapl:0:0"]
    core = next(sensor for sensor in board.sensors() if sensor.key == "intel-rapl:0:0")
    assert core.read() is None
    assert core.name == "core (intel-rapl:0:0)"


BOARD, MODULE = PowerReading(9.0, Scope.BOARD, "ina226"), PowerReading(7.0, Scope.MODULE, "ina3221 VDD_IN")
RAILS, SOC = PowerReading(4.0, Scope.RAILS, "ina3221"), PowerReading(2.0, Scope.SOC, "rapl")


@pytest.mark.parametrize(
    ("readings", "known", "expected"),
    [
        ([], [], Power()),
        ([SOC, BOARD, MODULE], ["soc", "board", "module"], Power(watts=9.0, scope=Scope.BOARD, source="ina226")),
        ([SOC, MODULE], ["soc", "module"], Power(watts=7.0, scope=Scope.MODULE, source="ina3221 VDD_IN")),
        ([SOC, SOC], ["soc", "soc"], Power(watts=4.0, scope=Scope.SOC, source="rapl")),
        ([RAILS, RAILS], ["rails", "rails"], Power(watts=8.0, scope=Scope.RAILS, source="ina3221")),
        # Without one of its parts there is no sum, and a narrower scope does not replace it.
        ([RAILS], ["rails", "rails"], Power(scope=Scope.RAILS)),
        ([SOC], ["soc", "board"], Power(scope=Scope.BOARD)),
        ([BOARD, BOARD], ["board", "board"], Power(watts=18.0, scope=Scope.RAILS, source="ina226")),
    ],
)
def test_the_widest_measurement_counts(readings: list[PowerReading], known: list[str], expected: Power) -> None:
    assert choose_power(readings, [Scope(scope) for scope in known]) == expected


def test_a_meter_that_fails_leaves_no_watts_of_a_narrower_scope(tmp_path: Path) -> None:
    load("rk3588-mainline").write(tmp_path)
    board = Board(tmp_path, tmp_path)
    assert board.read().power.watts == 11.875
    (tmp_path / "sys/class/hwmon/hwmon8/power1_input").write_text("")
    reading = board.read()
    assert reading.power == Power(scope=Scope.BOARD)
    assert reading.errors == {"ina226 (hwmon8)": "empty"}
