"""The unit is one that systemd takes, and starts the commands that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "edge-agent.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_systemd_takes_the_unit_without_a_word(tmp_path: Path) -> None:
    # Only the program's place is not there on a machine that has it in a virtual environment.
    text, replaced = re.subn(
        r"^ExecStart=/opt/edge-agent/bin/edge-agent ",
        "ExecStart=/bin/true ",
        UNIT.read_text("utf-8"),
        flags=re.MULTILINE,
    )
    assert replaced == 1
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_unit_does_not_try_again_after_a_bad_configuration() -> None:
    assert "RestartPreventExitStatus=78" in UNIT.read_text("utf-8").splitlines()
