from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.board.memory import Cgroup, CgroupReading, MemoryInfo, MemoryReading

MEMORY = "MemTotal:        1000000 kB\nMemAvailable:     500000 kB\n"


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("swap", "used_mb"),
    [
        ("", None),
        ("SwapTotal: 0 kB\nSwapFree: 0 kB\n", 0.0),
        ("SwapTotal: 100000 kB\nSwapFree: 40000 kB\n", 61.4),
        ("SwapTotal: 100000 kB\n", None),
        ("SwapTotal: 100000 kB\nSwapFree: 140000 kB\n", None),
    ],
)
def test_used_swap_is_total_less_free(tmp_path: Path, swap: str, used_mb: float | None) -> None:
    write(tmp_path, "proc/meminfo", MEMORY + swap + "HugePages_Total:       0\n")
    assert MemoryInfo(tmp_path).read() == MemoryReading(1024.0, 512.0, used_mb)


@pytest.mark.parametrize(
    "text",
    ["", "garbage", "MemTotal: 0 kB\n", "MemTotal: 10 kB\nMemAvailable: 11 kB\n", "MemTotal: 9999999999999 kB\n"],
)
def test_absurd_memory_is_an_error(tmp_path: Path, text: str) -> None:
    write(tmp_path, "proc/meminfo", text)
    with pytest.raises(ValueError, match=r"no MemTotal|absurd"):
        MemoryInfo(tmp_path).read()


def test_an_old_kernel_does_not_report_available_memory(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal: 1000000 kB\nMemFree: 5 kB\n")
    assert MemoryInfo(tmp_path).read() == MemoryReading(1024.0, None, None)


TABLE = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t5\t87\t1\nmemory\t0\t87\t{}\n"


@pytest.mark.parametrize(
    ("files", "has_controller"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}, True),
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"}, False),
        # A container without any controller says nothing about the kernel.
        ({"sys/fs/cgroup/cgroup.controllers": "\n"}, None),
        ({"proc/cgroups": TABLE.format(1)}, True),
        ({"proc/cgroups": TABLE.format(0)}, False),
        ({"proc/cgroups": TABLE.replace("memory", "pids").format(1)}, False),
        ({"sys/fs/cgroup/cgroup.controllers": "cpu pids\n", "proc/cgroups": TABLE.format(1)}, False),
    ],
)
def test_whether_the_kernel_can_limit_a_services_memory(
    tmp_path: Path, files: dict[str, str], *, has_controller: bool | None
) -> None:
    for name, text in files.items():
        write(tmp_path, name, text)
    expected = None if has_controller is None else CgroupReading(has_controller)
    assert Cgroup(tmp_path).read() == expected
