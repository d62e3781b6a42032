"""What each kind of sensor makes of its files."""

from pathlib import Path

import pytest

from edge_agent.board.board import ThrottleMemory
from edge_agent.board.power import Chip, Rapl, choose_power
from edge_agent.board.reading import Power, Scope, Throttle, ThrottleCause
from edge_agent.board.thermal import CoolingDevice, Limit, Zone, ZoneReading, soc_temperature

THERMAL = (ThrottleCause.THERMAL,)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content + "\n")
    return folder


def channels(**files: str) -> dict[str, str]:
    """An ina3221 with three channels of 5 V and 1, 2 and 3 A; the fourth is their sum."""
    whole = {"name": "ina3221", "curr4_input": "6000", "in7_label": "sum of shunt voltages"}
    for channel in (1, 2, 3):
        whole |= {f"in{channel}_input": "5000", f"curr{channel}_input": f"{channel}000", f"in{channel}_enable": "1"}
    return whole | files


def labelled(*labels: str) -> dict[str, str]:
    return channels(**{f"in{channel}_label": label for channel, label in enumerate(labels, 1)})


def power(watts: float, scope: Scope, source: str) -> Power:
    return Power(watts=watts, scope=scope, source=source)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"name": "cpu_thermal", "temp1_input": "61150"}, None),
        # The chip's own product counts, because it knows its shunt.
        (
            {"name": "ina226", "in1_input": "5000", "curr1_input": "1000", "power1_input": "4750000"},
            power(4.75, Scope.BOARD, "ina226"),
        ),
        (
            {"name": "ina219", "in0_input": "3", "in1_input": "5000", "curr1_input": "1200"},
            power(6.0, Scope.BOARD, "ina219"),
        ),
        (channels(), power(30.0, Scope.RAILS, "ina3221")),
        (labelled("VDD_CPU", "VDD_IN", "VDD_SOC"), power(10.0, Scope.MODULE, "ina3221 VDD_IN")),
        (labelled("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), power(30.0, Scope.RAILS, "ina3221")),
        (labelled("NC", "VDDQ_VDD2_1V8AO", "NC"), power(10.0, Scope.RAILS, "ina3221")),
        (channels(in3_enable="0", in3_input="", curr3_input=""), power(15.0, Scope.RAILS, "ina3221")),
        # The module's input does not depend on the rails that it feeds.
        (labelled("POM_5V_IN", "A", "B") | {"curr2_input": "-8"}, power(5.0, Scope.MODULE, "ina3221 POM_5V_IN")),
    ],
)  # fmt: skip
def test_a_chip_is_known_by_its_name(files: dict[str, str], expected: object, tmp_path: Path) -> None:
    assert Chip(write(tmp_path, files)).read() == expected


@pytest.mark.parametrize(
    "files",
    [
        {"name": ""},
        *({"name": "ina226", "power1_input": value} for value in ("-5000000", "2000000000", "", "garbage")),
        # Two negative factors would look like real power.
        {"name": "ina219", "in1_input": "-5000", "curr1_input": "-1200"},
        channels(in1_input="-5000", curr1_input="-1"),
        channels(curr2_input=""),
        {"name": "ina3221", "in1_input": "5000"},
    ],
)
def test_an_absurd_or_missing_value_of_a_chip_is_an_error(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match=r"absurd|empty|not a number|No such file"):
        Chip(write(tmp_path, files)).read()


@pytest.mark.parametrize(
    ("domain", "before_uj", "after_uj", "expected"),
    [
        ("package-0", 10_000_000, 40_000_000, power(15.0, Scope.SOC, "rapl")),
        ("package-0", 262_143_328_850 - 4_000_000, 14_000_000, power(9.0, Scope.SOC, "rapl")),  # the counter wraps
        ("psys", 0, 6_000_000, power(3.0, Scope.BOARD, "rapl")),
        ("core", 0, 6_000_000, None),
    ],
)
def test_watts_are_the_energy_between_two_readings(
    domain: str, before_uj: int, after_uj: int, expected: Power | None, tmp_path: Path
) -> None:
    files = {"name": domain, "energy_uj": str(before_uj), "max_energy_range_uj": "262143328850"}
    one = Rapl(write(tmp_path, files), iter((100.0, 102.0)).__next__)
    assert one.read() is None
    write(tmp_path, {"energy_uj": str(after_uj)})
    assert one.read() == expected


BOARD, MODULE = power(9.0, Scope.BOARD, "ina226"), power(7.0, Scope.MODULE, "ina3221 VDD_IN")
RAILS, SOC = power(4.0, Scope.RAILS, "ina3221"), power(2.0, Scope.SOC, "rapl")


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([], Power()),
        ([SOC, BOARD, MODULE], BOARD),
        ([SOC, MODULE], MODULE),
        ([SOC, SOC], power(4.0, Scope.SOC, "rapl")),
        ([RAILS, RAILS], power(8.0, Scope.RAILS, "ina3221")),
        # Several meters may measure in series.
        ([BOARD, BOARD], power(18.0, Scope.RAILS, "ina226")),
    ],
)
def test_the_widest_measurement_counts(readings: list[Power], expected: Power) -> None:
    assert choose_power(readings) == expected


def trips(*points: tuple[str, int], **more: str) -> dict[str, str]:
    return more | {
        f"trip_point_{number}_{what}": str(value)
        for number, point in enumerate(points)
        for what, value in zip(("type", "temp"), point, strict=True)
    }


POWER_ALLOCATOR = (("passive", 75000), ("passive", 85000), ("critical", 115000))


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        (trips(*POWER_ALLOCATOR, cdev0_trip_point="1"), Limit(85.0, is_mapped=True)),
        # A higher trip without a map cools nothing.
        (trips(*POWER_ALLOCATOR, cdev0_trip_point="0"), Limit(75.0, is_mapped=True)),
        (trips(*POWER_ALLOCATOR), Limit(85.0, is_mapped=False)),
        # A cooling device that is bound to no trip has -1.
        (trips(*POWER_ALLOCATOR, cdev0_trip_point="-1"), Limit(85.0, is_mapped=False)),
        # There is a fan alone.
        (trips(("critical", 110000), ("active", 50000), cdev0_trip_point="1"), None),
        # Trips that are not set, and below any SoC's limit.
        (trips(("passive", 0), ("passive", -274000), ("passive", 200000)), None),
        (trips(("passive", 7), ("passive", 39999), ("critical", 95000)), None),
        (trips(("passive", 7), ("passive", 70000), cdev0_trip_point="1"), Limit(70.0, is_mapped=True)),
    ],
)
def test_the_limit_is_the_highest_trip_that_cools(files: dict[str, str], limit: Limit | None, tmp_path: Path) -> None:
    zone = Zone(write(tmp_path, {"type": "cpu-thermal", "temp": "-5125", **files}))
    assert zone.read() == ZoneReading("cpu-thermal", -5.125, limit)
    assert zone.name == f"cpu-thermal ({tmp_path.name})"


@pytest.mark.parametrize(
    "files",
    [
        *({"temp": temp} for temp in ("200000", "150001", "", "garbage", "nan", "5e4", "50000 50000")),
        {"type": "\x00" * 9},
        {"trip_point_0_type": "passive", "trip_point_0_temp": "broken"},
    ],
)
def test_an_absurd_zone_is_an_error(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absurd|not a number|empty"):
        Zone(write(tmp_path, {"type": "cpu-thermal", "temp": "50000", **files})).read()


@pytest.mark.parametrize("temp", ["0", "-256000", "-40001"])
def test_a_zone_that_is_off_has_no_reading(temp: str, tmp_path: Path) -> None:
    assert Zone(write(tmp_path, {"type": "cpu-thermal", "temp": temp})).read() is None


def zone(zone_type: str, temperature_c: float, limit_c: float | None = None, *, mapped: bool = True) -> ZoneReading:
    return ZoneReading(zone_type, temperature_c, None if limit_c is None else Limit(limit_c, mapped))


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ([], (None, None)),
        ([zone("battery", 30.0), zone("gpu-thermal", 60.0, 85.0)], (None, None)),
        ([zone("cpu-thermal", 60.0), zone("gpu-thermal", 70.0, 65.0)], (60.0, None)),
        ([zone("CPU-therm", 60.0)], (60.0, None)),
        ([zone("cpu_thermal", 60.0, 90.0)], (60.0, 90.0)),
        ([zone("acpitz", 28.0, 95.0), zone("x86_pkg_temp", 56.0)], (56.0, None)),
        ([zone("acpitz", 28.0, 95.0)], (28.0, 95.0)),
        # The kernel acts on the one that is nearest to its own limit, not on the hottest.
        ([zone("bigcore0-thermal", 80.0, 95.0), zone("littlecore-thermal", 75.0, 85.0)], (75.0, 85.0)),
        ([zone("package-thermal", 74.0), zone("bigcore0-thermal", 72.0, 85.0)], (72.0, 85.0)),
        ([zone("cpu-thermal", 63.0), zone("tj-thermal", 61.0)], (63.0, None)),
        # As measured on an RK3588S, where only soc-thermal has maps, and the others' 75 °C cools nothing.
        ([zone("soc-thermal", 80.0, 95.0), zone("bigcore0-thermal", 82.0, 75.0, mapped=False)], (80.0, 95.0)),
        ([zone("soc-thermal", 70.0, 95.0, mapped=False), zone("cpu-thermal", 70.0, 75.0, mapped=False)], (70.0, 75.0)),
    ],
)
def test_the_zone_where_the_kernel_acts_first_stands_for_the_soc(
    zones: list[ZoneReading], expected: tuple[float | None, float | None]
) -> None:
    assert soc_temperature(zones, is_raspberry_pi=False) == expected
    assert soc_temperature(zones[::-1], is_raspberry_pi=False) == expected


@pytest.mark.parametrize(("kernels_c", "limit_c"), [(None, 80.0), (75.0, 75.0), (110.0, 80.0)])
def test_the_firmware_of_a_raspberry_pi_has_its_own_limit(kernels_c: float | None, limit_c: float) -> None:
    assert soc_temperature([zone("cpu-thermal", 60.0, kernels_c)], is_raspberry_pi=True) == (60.0, limit_c)


@pytest.mark.parametrize(
    ("cooling_type", "is_throttling"),
    [
        *((name, True) for name in ("cpufreq-cpu0", "thermal-cpufreq-0", "devfreq-fb000000.gpu", "thermal-devfreq-0")),
        *((name, True) for name in ("cpu-throttle-alert", "Processor")),
        *((name, False) for name in ("pwm-fan", "hot-surface-alert", "intel_powerclamp")),
    ],
)
def test_what_slows_the_board_throttles_and_no_fan(cooling_type: str, tmp_path: Path, *, is_throttling: bool) -> None:
    device = CoolingDevice(write(tmp_path, {"type": cooling_type, "cur_state": "1"}))
    assert device.read() == (Throttle(now=True, causes=THERMAL) if is_throttling else None)


def test_a_source_that_saw_it_is_enough_and_what_was_seen_is_kept() -> None:
    memory = ThrottleMemory()
    cool, hot = Throttle(now=False), Throttle(now=True, causes=THERMAL)
    low, well = Throttle(undervoltage_now=True), Throttle(undervoltage_now=False)
    assert memory.update([], is_incomplete=False) == Throttle()
    assert memory.update([cool, cool], is_incomplete=False) == Throttle(now=False, since_boot=False)
    # No throttling takes the word of every source.
    assert memory.update([cool], is_incomplete=True) == Throttle()
    assert memory.update([cool, hot], is_incomplete=True) == Throttle(now=True, since_boot=True, causes=THERMAL)
    assert memory.update([cool], is_incomplete=True) == Throttle(since_boot=True)
    assert memory.update([cool, low, well], is_incomplete=False).undervoltage_now
    assert memory.update([cool, well], is_incomplete=False) == Throttle(
        now=False, since_boot=True, undervoltage_now=False, undervoltage_since_boot=True
    )
