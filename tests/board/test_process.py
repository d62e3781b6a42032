import os
import subprocess
import sys

from edge_agent.board.process import process_memory, resident_mb


def test_memory_is_reported_as_held_and_as_asked_for() -> None:
    before = process_memory(os.getpid())
    held = bytearray(os.urandom(32 << 20))
    after = process_memory(os.getpid())
    assert before is not None
    assert after is not None
    assert after.held_mib - before.held_mib > 0.9 * len(held) / (1 << 20)
    assert after.data_mib > after.anonymous_mib
    assert (resident_mb() or 0.0) > 32.0


def test_a_process_that_is_gone_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        # It is a zombie.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process_memory(process.pid) is None
    assert process_memory(process.pid) is None
    assert resident_mb(process.pid) is None
