from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.board.process import oom_kills, process_memory

VMSTAT = "pgfault 1\noom_kill 7\nnuma_hit 2\n"
EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
GROUP = "sys/fs/cgroup/system.slice/edge-agent.service/memory.events"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"proc/self/cgroup": "0::/system.slice/edge-agent.service\n", GROUP: EVENTS, "proc/vmstat": VMSTAT}, 2),
        # The memory controller is off, as on Raspberry Pi OS.
        ({"proc/self/cgroup": "0::/system.slice/edge-agent.service\n", "proc/vmstat": VMSTAT}, 7),
        ({"proc/self/cgroup": "4:memory:/a\n1:cpu:/\n", "proc/vmstat": VMSTAT}, 7),
        ({"proc/vmstat": VMSTAT}, 7),
        ({"proc/vmstat": "pgfault 1\n"}, None),
        ({}, None),
    ],
)
def test_kills_for_lack_of_memory_are_counted_in_the_nearest_group(
    tmp_path: Path, files: dict[str, str], count: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path) == count


def test_memory_is_reported_as_held_and_as_asked_for() -> None:
    asked_mib = 64
    program = f"import mmap\nm = mmap.mmap(-1, {asked_mib} << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    touch = "m[: 32 << 20] = b'!' * (32 << 20)\n"
    wait = "print(flush=True)\ninput()\n"
    with subprocess.Popen(
        [sys.executable, "-c", program + wait + touch + wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before = process_memory(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        after = process_memory(process.pid)
        process.stdin.close()
    assert before is not None
    assert after is not None
    assert before.data_mib >= asked_mib
    assert before.anonymous_mib + before.swapped_mib < asked_mib
    assert after.anonymous_mib + after.swapped_mib - before.anonymous_mib - before.swapped_mib > 30.0


def test_a_process_that_is_gone_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        # A zombie.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_memory(process.pid) is None
    assert process_memory(process.pid) is None
