from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

import pytest

from edge_agent.board.generic import GenericBoard, cores, machine, process_memory, resident_mb

RASPBERRY_PI = {
    "proc/device-tree/model": b"Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/cpuinfo": b"processor\t: 0\nFeatures\t: fp asimd asimddp\n\nprocessor\t: 1\nFeatures\t: fp\n",
    "proc/meminfo": b"MemTotal:  8000000 kB\nMemAvailable:  6000000 kB\nSwapTotal: 100000 kB\nSwapFree: 40000 kB\n"
    b"HugePages_Total:       0\n",
    "proc/loadavg": b"0.52 0.58 0.59 1/467 12345\n",
    "sys/class/thermal/thermal_zone0/type": b"cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": b"48312\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": b"critical\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": b"110000\n",
    "sys/class/thermal/thermal_zone0/trip_point_1_type": b"passive\n",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": b"80000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": b"1500000\n",
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": b"2400000\n",
}
ZONE = "sys/class/thermal/thermal_zone0"


def board(root: Path, files: dict[str, bytes | None]) -> GenericBoard:
    """The Raspberry Pi with some files changed, or taken away (None)."""
    for name, content in {**RASPBERRY_PI, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)
    return GenericBoard(root, root)


def failing(root: Path, name: str) -> None:
    """Makes a file fail with EIO when it is read, as a sensor does whose bus is stuck."""
    (root / name).unlink()
    (root / name).symlink_to("/proc/self/mem")


def test_a_board_tells_all_that_it_has(tmp_path: Path) -> None:
    reading = board(tmp_path, {}).read()
    assert reading.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert (reading.soc_c, reading.limit_c, reading.zones) == (48.312, 80.0, {"cpu-thermal": 48.312})
    assert reading.load1 == 0.52
    assert (reading.freq_mhz, reading.freq_max_mhz) == (1500.0, 2400.0)
    assert (reading.memory_total_mb, reading.memory_available_mb, reading.swap_used_mb) == (8192.0, 6144.0, 61.4)
    assert reading.disk_free_mb is not None
    assert reading.cpu_percent is None
    assert reading.errors == {}


def test_the_features_of_the_first_core_are_told(tmp_path: Path) -> None:
    assert board(tmp_path, {}).cpu_features() == ["asimd", "asimddp", "fp"]
    assert board(tmp_path, {"proc/cpuinfo": b"flags\t\t: sse avx\n"}).cpu_features() == ["avx", "sse"]
    assert board(tmp_path, {"proc/cpuinfo": b"nothing\n"}).cpu_features() == []


def test_what_a_board_does_not_have_is_none_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    (tmp_path / "proc").mkdir()
    bare = GenericBoard(tmp_path, tmp_path)
    reading = bare.read()
    assert bare.model() is None
    assert bare.cpu_features() == []
    assert reading.zones == {}
    assert (reading.model, reading.soc_c, reading.limit_c, reading.freq_mhz, reading.freq_max_mhz) == (None,) * 5
    assert not any("freq" in name or "thermal" in name for name in reading.errors)


def test_memory_and_load_that_every_linux_has_are_missed(tmp_path: Path) -> None:
    reading = GenericBoard(tmp_path, tmp_path).read()
    assert set(reading.errors) == {"meminfo", "loadavg"}
    assert (reading.memory_total_mb, reading.swap_used_mb, reading.load1) == (None, None, None)


@pytest.mark.parametrize("garbage", [b"", b"\n", b"warm\n", b"\xff\xfe", b"nan", b"inf", b"4 8 3"])
def test_garbage_is_an_error_and_no_reading(tmp_path: Path, garbage: bytes) -> None:
    reading = board(
        tmp_path,
        {
            f"{ZONE}/temp": garbage,
            "proc/loadavg": b"heavy" if garbage == b"4 8 3" else garbage,
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": garbage,
        },
    ).read()
    assert (reading.soc_c, reading.zones, reading.load1, reading.freq_mhz) == (None, {}, None, None)
    assert set(reading.errors) == {"thermal_zone0", "loadavg", "scaling_cur_freq"}
    assert reading.freq_max_mhz == 2400.0
    assert reading.memory_total_mb == 8192.0


def test_a_file_that_fails_when_read_is_an_error_and_the_others_stay(tmp_path: Path) -> None:
    one = board(tmp_path, {})
    for name in (f"{ZONE}/temp", "proc/meminfo", "proc/loadavg"):
        failing(tmp_path, name)
    failing(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq")
    reading = one.read()
    assert reading.errors == dict.fromkeys(
        ("thermal_zone0", "meminfo", "loadavg", "scaling_cur_freq"), "Input/output error"
    )
    assert (reading.soc_c, reading.memory_total_mb, reading.load1, reading.freq_mhz) == (None,) * 4
    assert reading.freq_max_mhz == 2400.0


def test_a_zone_without_a_type_does_not_hide_the_others(tmp_path: Path) -> None:
    reading = board(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone1/temp": b"50000",
            "sys/class/thermal/thermal_zone2/type": b"gpu-thermal",
            "sys/class/thermal/thermal_zone2/temp": b"-5000",
        },
    ).read()
    assert reading.zones == {"cpu-thermal": 48.312, "gpu-thermal": -5.0}
    assert reading.errors == {"thermal_zone1": "No such file or directory"}


def test_a_trip_point_that_cannot_be_read_leaves_the_temperature(tmp_path: Path) -> None:
    reading = board(tmp_path, {f"{ZONE}/trip_point_1_temp": b"hot"}).read()
    assert (reading.soc_c, reading.limit_c) == (48.312, None)
    assert set(reading.errors) == {"thermal_zone0/trip_point_1_type"}


def test_without_a_passive_trip_point_there_is_no_limit(tmp_path: Path) -> None:
    assert board(tmp_path, {f"{ZONE}/trip_point_1_type": b"active\n"}).read().limit_c is None


def test_the_best_known_zone_stands_for_the_soc(tmp_path: Path) -> None:
    files: dict[str, bytes | None] = {
        f"{ZONE}/type": b"gpu-thermal\n",
        "sys/class/thermal/thermal_zone1/type": b"package-thermal",
        "sys/class/thermal/thermal_zone1/temp": b"61000",
    }
    assert board(tmp_path, files).read().soc_c == 61.0


def test_zones_of_unknown_names_are_told_but_stand_for_nothing(tmp_path: Path) -> None:
    reading = board(tmp_path, {f"{ZONE}/type": b"battery\n"}).read()
    assert (reading.soc_c, reading.limit_c) == (None, None)
    assert reading.zones == {"battery": 48.312}


def test_a_board_without_swap_uses_none_of_it(tmp_path: Path) -> None:
    meminfo = b"MemTotal: 1000000 kB\nMemAvailable: 500000 kB\n"
    assert board(tmp_path, {"proc/meminfo": meminfo}).read().swap_used_mb is None
    meminfo += b"SwapTotal: 0 kB\nSwapFree: 0 kB\n"
    assert board(tmp_path, {"proc/meminfo": meminfo}).read().swap_used_mb == 0.0


def test_the_disk_of_a_folder_that_is_not_made_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    assert GenericBoard(tmp_path, tmp_path / "models" / "later").read().disk_free_mb is not None


def test_this_machine_can_be_read() -> None:
    reading = GenericBoard(Path("/"), Path("/")).read()
    assert reading.cpu_percent is not None
    assert reading.memory_total_mb
    assert machine()
    assert cores() >= 1
    assert resident_mb(os.getpid())


def test_a_process_that_is_gone_has_no_size() -> None:
    assert resident_mb(2**22 + 1) is None


def test_memory_of_a_process_is_told_by_what_is_behind_it() -> None:
    size = 32 * 2**20
    before = process_memory(os.getpid())
    # Not from the heap, which may have that much to spare.
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as ballast:
        for page in range(0, size, mmap.PAGESIZE):
            ballast[page] = 1
        after = process_memory(os.getpid())

    assert before is not None
    assert after is not None
    assert size / 2**20 - 4 < after.anonymous_mib - before.anonymous_mib < 48
    assert after.file_mib > 0


def test_a_process_that_is_gone_has_no_memory() -> None:
    process = subprocess.Popen(["true"])
    process.wait()

    assert process_memory(process.pid) is None
