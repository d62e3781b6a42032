from __future__ import annotations

import os
import subprocess
import sys

from edge_agent.board.process import process_memory, resident_mb


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
    assert before.held_mib < asked_mib
    assert after.held_mib - before.held_mib > 30.0


def test_a_process_that_is_gone_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        # A zombie.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_memory(process.pid) is None
    assert process_memory(process.pid) is None
    assert resident_mb(process.pid) is None
    assert resident_mb()
