"""One agent per state_dir, whatever became of the one before."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.core.state_lock import StateInUseError, locked
from tests.helpers.processes import EdgeAgent
from tests.helpers.site import written_config

HOLDS = (
    "import subprocess, sys, time; from pathlib import Path; from edge_agent.core.state_lock import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    worker = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, close_fds=False)\n"
    "    print(worker.pid, flush=True); time.sleep(60)"
)


def refused(folder: Path) -> None:
    message = re.escape(f"state_dir {folder} is in use by another process: ")
    with pytest.raises(StateInUseError, match=message), locked(folder):
        pass


def test_a_folder_is_free_again_after_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "state"
    for _ in range(2):
        with locked(folder):
            refused(folder)


def test_a_second_run_ends_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edge_agent: EdgeAgent) -> None:
    monkeypatch.setattr("edge_agent.agent.Agent", lambda *_: pytest.fail("it runs"))
    with locked(tmp_path / "state"):
        done = edge_agent("run", "--config", written_config(tmp_path, "echo:"))
    message = f"state_dir {tmp_path}/state is in use by another process: each agent needs its own"
    assert (done.returncode, done.stderr) == (1, f"edge-agent: {message}\n")


def test_a_killed_agent_leaves_the_folder_free_though_its_worker_lives_on(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        try:
            refused(tmp_path)
            holder.kill()
            holder.wait()
            with locked(tmp_path):
                pass
        finally:
            holder.kill()
            os.kill(worker, signal.SIGKILL)


@pytest.mark.expects_warning
def test_a_folder_that_cannot_be_made_keeps_nobody_from_running(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with locked(tmp_path / "file" / "state"):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/file/state cannot be locked, another agent could use it too: Not a directory"
    ]
