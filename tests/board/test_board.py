import errno
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.board.board import Board
from edge_agent.board.reading import BoardReading, Cpu, Memory, Power, Scope, Thermal, Throttle, ThrottleCause
from edge_agent.core.environment import cores
from tests.helpers.boards.trees import NAMES, Tree, load, read

NEVER = Throttle(now=False, since_boot=False, undervoltage_now=False, undervoltage_since_boot=False)
COOL = Throttle(now=False, since_boot=False)


def zones(**temperatures: float) -> dict[str, float]:
    return {f"{name}-thermal": at for name, at in temperatures.items()}


PI5 = BoardReading(
    thermal=Thermal(soc_c=61.15, limit_c=80.0, zones=zones(cpu=61.15)),
    throttle=NEVER,
    cpu=Cpu(load1=2.11, freq_mhz=2400.0, freq_max_mhz=2400.0),
    memory=Memory(total_mb=8454.0, available_mb=6246.8, swap_used_mb=127.3),
)
SLOW_PI5 = replace(PI5, cpu=replace(PI5.cpu, freq_mhz=1500.0))
RK3588 = BoardReading(
    cpu=Cpu(load1=3.9, freq_mhz=2112.0, freq_max_mhz=2304.0),
    memory=Memory(total_mb=16507.1, available_mb=14245.9, swap_used_mb=0.0),
)
OFF = ("cv0-thermal (thermal_zone2)", "cv1-thermal (thermal_zone3)", "cv2-thermal (thermal_zone4)")
# What the first reading of each tree is, without the free space of the disk.
EXPECTED = {
    "pi4": BoardReading(
        thermal=Thermal(soc_c=47.225, limit_c=80.0, zones=zones(cpu=47.225)),
        throttle=NEVER,
        cpu=Cpu(load1=0.08, freq_mhz=600.0, freq_max_mhz=1800.0),
        memory=Memory(total_mb=3977.6, available_mb=3494.5, swap_used_mb=0.0),
    ),
    "pi5": PI5,
    "pi5-throttled": replace(
        SLOW_PI5,
        thermal=Thermal(soc_c=84.4, limit_c=80.0, zones=zones(cpu=84.4)),
        throttle=replace(NEVER, now=True, since_boot=True, causes=(ThrottleCause.THERMAL, ThrottleCause.CAP)),
    ),
    "pi5-undervoltage": replace(
        SLOW_PI5,
        throttle=Throttle(
            causes=(ThrottleCause.UNDERVOLTAGE,),
            **dict.fromkeys(("now", "since_boot", "undervoltage_now", "undervoltage_since_boot"), True),
        ),
    ),
    "rk3588-mainline": replace(
        RK3588,
        thermal=Thermal(
            soc_c=80.384,
            limit_c=85.0,
            zones=zones(
                package=74.0, bigcore0=78.538, bigcore2=80.384, littlecore=75.769, center=72.076, gpu=71.153, npu=71.153
            ),
        ),
        throttle=COOL,
        power=Power(watts=11.875, scope=Scope.BOARD, source="ina226"),
    ),
    "rk3588-vendor": replace(
        RK3588,
        thermal=Thermal(
            soc_c=86.0,
            limit_c=85.0,
            zones=zones(
                soc=86.0, bigcore0=87.846, bigcore1=88.769, littlecore=85.076, center=82.307, gpu=80.461, npu=80.461
            ),
        ),
        throttle=Throttle(now=True, since_boot=True, causes=(ThrottleCause.THERMAL,)),
    ),
    "orin-nano": BoardReading(
        thermal=Thermal(
            soc_c=63.625,
            limit_c=95.0,
            zones=zones(cpu=63.625, gpu=61.312, soc0=60.75, soc1=61.968, soc2=61.125, tj=63.781),
        ),
        throttle=COOL,
        power=Power(watts=9.25, scope=Scope.MODULE, source="ina3221 VDD_IN"),
        cpu=Cpu(load1=2.3, freq_mhz=1344.0, freq_max_mhz=1510.4),
        memory=Memory(total_mb=7990.1, available_mb=5019.9, swap_used_mb=102.4),
        errors=dict.fromkeys(OFF, "Resource temporarily unavailable"),
        unavailable=frozenset(OFF),
    ),
    "x86-laptop": BoardReading(
        thermal=Thermal(soc_c=56.0, zones={"acpitz": 29.8, "INT3400 Thermal": 20.0, "x86_pkg_temp": 56.0}),
        throttle=COOL,
        cpu=Cpu(load1=0.52, freq_mhz=1800.123, freq_max_mhz=4200.0),
        memory=Memory(total_mb=16554.5, available_mb=10149.9, swap_used_mb=0.0),
        errors={"iwlwifi_1 (thermal_zone4)": "No data available"},
        unavailable=frozenset({"iwlwifi_1 (thermal_zone4)"}),
    ),
    "container": BoardReading(cpu=Cpu(load1=0.0), memory=Memory(total_mb=1036.3, available_mb=819.2, swap_used_mb=0.0)),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_recorded_board_is_read_completely(name: str, tmp_path: Path) -> None:
    assert replace(read(load(name), tmp_path), disk_free_mb=None) == EXPECTED[name]


def test_expected_and_recorded_boards_are_the_same_and_have_no_faults() -> None:
    assert sorted(EXPECTED) == NAMES
    assert not any(reading.has_faults for reading in EXPECTED.values())


@pytest.mark.parametrize(
    ("name", "model", "features"),
    [
        ("pi5", "Raspberry Pi 5 Model B Rev 1.0", b"Features\t: fp asimddp asimd\n\nprocessor\t: 1\nFeatures\t: fp\n"),
        ("orin-nano", "NVIDIA Jetson Orin Nano Developer Kit", b"nothing\n"),
        ("x86-laptop", None, b"flags\t\t: sse avx\n"),
    ],
)  # fmt: skip
def test_name_and_features_of_a_board(name: str, model: str | None, features: bytes, tmp_path: Path) -> None:
    load(name).write(tmp_path)
    board = Board(tmp_path, tmp_path)
    assert board.model() == model
    (tmp_path / "proc/cpuinfo").write_bytes(features)
    expected = {"pi5": ["asimd", "asimddp", "fp"], "orin-nano": [], "x86-laptop": ["avx", "sse"]}[name]
    assert board.cpu_features() == expected
    assert cores() >= 1


def test_rates_are_known_from_the_second_reading_on(tmp_path: Path) -> None:
    load("x86-laptop").write(tmp_path)
    board = Board(tmp_path, tmp_path)
    first = board.read()
    assert (first.cpu.percent, first.power) == (None, Power())
    (tmp_path / "proc/stat").write_text("cpu  94755 150 13140 946270 5530 0 145 0 0 0\n")
    reading = board.read()
    assert reading.cpu.percent == 70.0
    assert board.read().cpu.percent is None


def test_a_missing_folder_has_the_free_space_of_its_parent(tmp_path: Path) -> None:
    assert Board(tmp_path, tmp_path / "models" / "later").read().disk_free_mb is not None


def test_missing_memory_and_load_are_faults(tmp_path: Path) -> None:
    reading = Board(tmp_path, tmp_path).read()
    assert set(reading.errors) == {"meminfo", "loadavg", "cpu"}
    assert reading.has_faults
    assert replace(reading, errors={}, disk_free_mb=None) == BoardReading()


def test_a_device_that_takes_the_number_of_a_failed_one_is_identified(tmp_path: Path) -> None:
    load("rk3588-mainline").write(tmp_path)
    board = Board(tmp_path, tmp_path)
    zone, meter = tmp_path / "sys/class/thermal/thermal_zone0", tmp_path / "sys/class/hwmon/hwmon8"
    assert board.read().thermal.zones["package-thermal"] == int((zone / "temp").read_text()) / 1000
    for folder in (zone, meter):
        folder.rename(tmp_path / "gone")
        reading = board.read()
        assert reading.errors == {}
        (tmp_path / "gone").rename(folder)
    assert reading.power == Power()
    (zone / "temp").write_text("broken\n")
    (meter / "power1_input").write_text("broken\n")
    assert set(board.read().errors) == {"package-thermal (thermal_zone0)", "ina226 (hwmon8)"}
    (zone / "type").write_text("battery\n")
    (zone / "temp").write_text("31000\n")
    (meter / "name").write_text("fan\n")
    reading = board.read()
    assert (reading.thermal.zones["battery"], reading.power, reading.errors) == (31.0, Power(), {})


@pytest.mark.parametrize(
    ("name", "path", "content", "field", "value"),
    [
        # A part, or a narrower scope, would look like a fall in power.
        ("rk3588-mainline", "sys/class/hwmon/hwmon8/power1_input", "", "power", Power()),
        ("rk3588-mainline", "sys/class/thermal/cooling_device1/cur_state", "-22", "throttle.now", None),
        # The device is a fan.
        ("rk3588-mainline", "sys/class/thermal/cooling_device4/cur_state", "broken", "throttle.now", False),
        ("pi5", "proc/device-tree/compatible", "a,gateway\0raspberrypi,4-compute-module\0", "thermal.limit_c", 80.0),
        ("pi5", "proc/device-tree/compatible", "a,gateway\0", "thermal.limit_c", None),
    ],
)  # fmt: skip
def test_one_file_changes_what_it_should(
    name: str, path: str, content: str, field: str, value: object, tmp_path: Path
) -> None:
    tree = load(name)
    tree.files[path] = content.encode()
    assert attrgetter(field)(read(tree, tmp_path)) == value


@pytest.mark.parametrize(("name", "is_low"), [("pi5-undervoltage", True), ("pi5", False)])
@pytest.mark.parametrize("number", [None, errno.EACCES])
def test_where_the_firmware_cannot_be_asked_the_kernels_alarm_says_whether_the_voltage_is_low(
    name: str, number: int | None, tmp_path: Path, *, is_low: bool
) -> None:
    tree = load(name)
    del tree.files["get_throttled"]
    if number is not None:
        tree.faults["get_throttled"] = number
    assert read(tree, tmp_path).throttle == Throttle(
        causes=(ThrottleCause.UNDERVOLTAGE,) * is_low, undervoltage_now=is_low, undervoltage_since_boot=is_low
    )


def test_the_firmwares_word_on_the_voltage_counts_before_the_kernels(tmp_path: Path) -> None:
    tree = load("pi5-undervoltage")
    tree.files["get_throttled"] = load("pi5").files["get_throttled"]
    assert read(tree, tmp_path).throttle == NEVER


def test_every_reading_has_its_field_of_health() -> None:
    reading = BoardReading(
        thermal=Thermal(soc_c=61.15, limit_c=80.0, zones={"cpu-thermal": 61.15}),
        throttle=Throttle(now=True, causes=(ThrottleCause.UNDERVOLTAGE, ThrottleCause.CAP), undervoltage_now=True),
        power=Power(watts=4.5, scope=Scope.RAILS, source="pmic"),
        cpu=Cpu(load1=3.9, percent=99.5, freq_mhz=1500.0, freq_max_mhz=2400.0),
        memory=Memory(total_mb=8454.0, available_mb=6246.8, swap_used_mb=0.0),
        disk_free_mb=12345.6,
        errors={"cv0-thermal": "Resource temporarily unavailable"},
    )
    assert reading.as_health() == {
        "thermal": {
            "soc_c": 61.15, "limit_c": 80.0, "headroom_c": 18.9, "zones": {"cpu-thermal": 61.15},
            "throttled_now": True, "throttled_since_boot": None, "causes": ["undervoltage", "cap"],
        },
        "power": {
            "watts": 4.5, "scope": "rails", "source": "pmic", "undervoltage_now": True, "undervoltage_since_boot": None,
        },
        "cpu": {"load1": 3.9, "percent": 99.5, "freq_mhz": 1500.0, "freq_max_mhz": 2400.0},
        "memory": {"total_mb": 8454.0, "available_mb": 6246.8, "swap_used_mb": 0.0}, "disk": {"free_mb": 12345.6},
        "sensor_errors": {"cv0-thermal": "Resource temporarily unavailable"},
    }  # fmt: skip
    unknown = [value for section in BoardReading().as_health().values() for value in section.values()]
    assert not [value for value in unknown if value not in (None, {}, [], Scope.NONE)]


def test_huge_files_make_no_huge_documents(tmp_path: Path) -> None:
    tree = load("orin-nano")
    tree.files |= dict.fromkeys(tree.files, b"9z" * 1000000)
    reading = read(tree, tmp_path)
    assert reading.thermal.zones == {}
    assert sum(len(name) + len(why) for name, why in reading.errors.items()) < 10_000
    assert len(Board(tmp_path, tmp_path).model() or "") <= 100


BAD = (*(b"", b"\n", b"garbage\n", b"\xff\xfe\0", b"nan"), *(b"inf", b"-256000\n", b"99999999999\n", b"0xZZ", b"1 2 3"))
ERRNOS = (errno.EAGAIN, errno.EINVAL, errno.ENODATA, errno.EIO, errno.EACCES, errno.ENODEV)
# A folder's file becomes a folder, or a link that leads nowhere.
ODD = ("missing", "folder", "dangling", *BAD, *ERRNOS)


def spoil(tree: Tree, root: Path, name: str, how: object) -> None:
    tree.faults.pop(name, None)
    path = root / name
    if path.is_file():
        path.unlink()
    match how:
        case "folder":
            path.mkdir()
        case "dangling":
            path.symlink_to("nowhere")
        case bytes(content):
            path.write_bytes(content)
        case int(number):
            path.touch()
            tree.faults[name] = number


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_all_of_a_damaged_tree_is_right_or_null(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    name = data.draw(st.sampled_from(NAMES))
    tree, root = load(name), tmp_path_factory.mktemp(name)
    tree.write(root)
    paths = sorted(path for path in {*tree.files, *tree.faults} if not path.endswith("_label"))
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=6, unique=True)):
        # A name says what is measured, and a wrong name looks like the name of another sensor.
        is_name = path.endswith(("/name", "/type"))
        ways = [how for how in ODD if not (is_name and isinstance(how, bytes) and how.strip())]
        spoil(tree, root, path, data.draw(st.sampled_from(ways)))
    with pytest.MonkeyPatch.context() as patch:
        tree.inject(patch, root)
        board = Board(root, root)
        assert_right_or_null(board.read(), EXPECTED[name])
        board.read()


def assert_right_or_null(reading: BoardReading, right: BoardReading) -> None:
    # The laptop has a second, cooler zone of a type.
    temperatures = {27.8, *right.thermal.zones.values()}
    assert set(reading.thermal.zones.values()) <= temperatures
    assert reading.thermal.soc_c in {None, *temperatures}
    assert reading.thermal.limit_c in {
        None,
        right.thermal.limit_c,
        *({95.0} if "acpitz" in right.thermal.zones else {}),
    }
    for part in ("throttle", "cpu", "memory"):
        for field in type(getattr(right, part)).__dataclass_fields__:
            if field == "causes":
                assert set(reading.throttle.causes) <= set(right.throttle.causes)
            else:
                assert getattr(getattr(reading, part), field) in (None, getattr(getattr(right, part), field)), field
    assert reading.power.watts in (None, right.power.watts)
    assert reading.power.scope in (Scope.NONE, right.power.scope)
