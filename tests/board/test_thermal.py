from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.board.board import Board
from edge_agent.board.files import OfflineError
from edge_agent.board.thermal import Limit, Zone, ZoneReading, soc_temperature


def zone(folder: Path, **files: str) -> Zone:
    """thermal_zone3 with these files; `temp` is 50 °C."""
    path = folder / "thermal_zone3"
    path.mkdir(exist_ok=True)
    for name, content in {"type": "cpu-thermal", "temp": "50000", **files}.items():
        (path / name).write_text(content + "\n")
    return Zone(path)


def trips(*points: tuple[str, int]) -> dict[str, str]:
    return {
        f"trip_point_{number}_{what}": str(value)
        for number, point in enumerate(points)
        for what, value in zip(("type", "temp"), point, strict=True)
    }


def limit(folder: Path, **files: str) -> Limit | None:
    reading = zone(folder, **files).read()
    assert reading.limit_fault is None
    return reading.limit


POWER_ALLOCATOR = trips(("passive", 75000), ("passive", 85000), ("critical", 115000))


def test_the_limit_is_the_highest_passive_trip_with_a_cooling_map(tmp_path: Path) -> None:
    assert limit(tmp_path, **POWER_ALLOCATOR, cdev0_trip_point="1") == Limit(85.0, is_mapped=True)


def test_a_higher_trip_without_a_map_cools_nothing(tmp_path: Path) -> None:
    assert limit(tmp_path, **POWER_ALLOCATOR, cdev0_trip_point="0") == Limit(75.0, is_mapped=True)


def test_without_maps_the_highest_passive_trip_is_taken(tmp_path: Path) -> None:
    assert limit(tmp_path, **POWER_ALLOCATOR) == Limit(85.0, is_mapped=False)
    # -1: a cooling device that is bound to no trip.
    assert limit(tmp_path, **POWER_ALLOCATOR, cdev0_trip_point="-1") == Limit(85.0, is_mapped=False)


def test_maps_of_a_fan_alone_leave_no_limit(tmp_path: Path) -> None:
    fan = trips(("critical", 110000), ("active", 50000))
    assert limit(tmp_path, **fan, cdev0_trip_point="1") is None


def test_trips_that_are_not_set_are_no_limit(tmp_path: Path) -> None:
    assert limit(tmp_path, **trips(("passive", 0), ("passive", -274000), ("passive", 200000))) is None


def test_a_trip_below_any_soc_limit_is_no_limit(tmp_path: Path) -> None:
    assert limit(tmp_path, **trips(("passive", 7), ("passive", 39999), ("critical", 95000))) is None
    assert limit(tmp_path, **trips(("passive", 7), ("passive", 70000)), cdev0_trip_point="1") == Limit(70.0, True)


def test_another_zone_with_the_number_of_a_failed_one_is_identified(tmp_path: Path) -> None:
    one = zone(tmp_path, **trips(("passive", 80000)))
    assert one.read() == ZoneReading("thermal_zone3", "cpu-thermal", 50.0, Limit(80.0, is_mapped=False))
    zone(tmp_path, type="wifi", temp="gone", trip_point_0_type="critical")
    with pytest.raises(ValueError, match="not a number"):
        one.read()
    zone(tmp_path, type="wifi", temp="41000", trip_point_0_type="critical")
    assert one.read() == ZoneReading("thermal_zone3", "wifi", 41.0, None)


@pytest.mark.parametrize("name", ["A" * 65, "\x00" * 9, "B" * 3_000_000])
def test_a_name_that_is_too_long_is_an_error_with_a_short_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"longer than|empty") as caught:
        zone(tmp_path, type=name).read()
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("name", ["trip_point_1_temp", "trip_point_1_type", "cdev0_trip_point"])
def test_a_zone_whose_trip_cannot_be_read_has_a_temperature_and_no_limit(tmp_path: Path, name: str) -> None:
    one = zone(tmp_path, **POWER_ALLOCATOR, cdev0_trip_point="1")
    path = tmp_path / "thermal_zone3" / name
    content = path.read_text()
    path.unlink()
    path.mkdir()
    what = name.replace("_temp", "_type")
    assert one.read() == ZoneReading("thermal_zone3", "cpu-thermal", 50.0, None, f"{what}: Is a directory")
    path.rmdir()
    path.write_text(content)
    assert one.read().limit == Limit(85.0, is_mapped=True)


@pytest.mark.parametrize("temp", ["0", "-256000", "-40001"])
def test_an_impossible_temperature_means_that_a_zone_is_off(tmp_path: Path, temp: str) -> None:
    with pytest.raises(OfflineError, match="absurd"):
        zone(tmp_path, temp=temp).read()


@pytest.mark.parametrize("temp", ["200000", "150001", "", "garbage", "nan", "5e4", "1_000", "50000 50000"])
def test_a_broken_zone_has_no_temperature(tmp_path: Path, temp: str) -> None:
    with pytest.raises(ValueError, match=r"absurd|not a number|empty") as caught:
        zone(tmp_path, temp=temp).read()
    assert not isinstance(caught.value, OfflineError)


def test_frost_is_a_temperature(tmp_path: Path) -> None:
    assert zone(tmp_path, temp="-5125").read().temperature_c == -5.125


def test_a_zone_is_named_by_type_and_number(tmp_path: Path) -> None:
    one = zone(tmp_path)
    assert one.name == "thermal_zone3"
    one.read()
    assert one.name == "cpu-thermal (thermal_zone3)"


def reading(zone_type: str, temperature_c: float, limit_c: float | None = None, *, mapped: bool = True) -> ZoneReading:
    return ZoneReading(zone_type, zone_type, temperature_c, None if limit_c is None else Limit(limit_c, mapped))


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ([], (None, None)),
        ([reading("battery", 30.0), reading("gpu-thermal", 60.0, 85.0)], (None, None)),
        ([reading("cpu-thermal", 60.0), reading("gpu-thermal", 70.0, 65.0)], (60.0, None)),
        ([reading("CPU-therm", 60.0)], (60.0, None)),
        ([reading("cpu_thermal", 60.0, 90.0)], (60.0, 90.0)),
        ([reading("acpitz", 28.0, 95.0), reading("x86_pkg_temp", 56.0)], (56.0, None)),
        ([reading("acpitz", 28.0, 95.0)], (28.0, 95.0)),
        # The kernel acts on the one that is nearest to its own limit, not on the hottest.
        ([reading("bigcore0-thermal", 80.0, 95.0), reading("littlecore-thermal", 75.0, 85.0)], (75.0, 85.0)),
        ([reading("package-thermal", 74.0), reading("bigcore0-thermal", 72.0, 85.0)], (72.0, 85.0)),
        # The hottest point of the die has the limit of the others where it has none of its own.
        ([reading("cpu-thermal", 60.0, 95.0), reading("tj-thermal", 61.0)], (61.0, 95.0)),
        ([reading("cpu-thermal", 60.0, 95.0), reading("tj-thermal", 61.0, 99.0)], (60.0, 95.0)),
        ([reading("cpu-thermal", 63.0), reading("tj-thermal", 61.0)], (61.0, None)),
        # As measured on an RK3588S: only soc-thermal has maps, and 75 °C of the others cools nothing.
        (
            [reading("soc-thermal", 80.0, 95.0), reading("bigcore0-thermal", 82.0, 75.0, mapped=False)],
            (80.0, 95.0),
        ),
        (
            [reading("soc-thermal", 70.0, 95.0, mapped=False), reading("cpu-thermal", 70.0, 75.0, mapped=False)],
            (70.0, 75.0),
        ),
    ],
)
def test_the_zone_where_the_kernel_acts_first_stands_for_the_soc(
    zones: list[ZoneReading], expected: tuple[float | None, float | None]
) -> None:
    assert soc_temperature(zones, is_raspberry_pi=False) == expected
    assert soc_temperature(zones[::-1], is_raspberry_pi=False) == expected


@pytest.mark.parametrize(("kernels_c", "limit_c"), [(None, 80.0), (75.0, 75.0), (110.0, 80.0)])
def test_the_firmware_of_a_raspberry_pi_has_its_own_limit(kernels_c: float | None, limit_c: float) -> None:
    assert soc_temperature([reading("cpu-thermal", 60.0, kernels_c)], is_raspberry_pi=True) == (60.0, limit_c)


def test_a_compute_module_in_another_makers_board_has_that_limit_too(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/thermal"
    folder.mkdir(parents=True)
    zone(folder)
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_text("Someone's Gateway\0")
    assert Board(tmp_path, tmp_path).read().thermal.limit_c is None
    (tree / "compatible").write_text("someone,gateway\0raspberrypi,4-compute-module\0brcm,bcm2711\0")
    assert Board(tmp_path, tmp_path).read().thermal.limit_c == 80.0
