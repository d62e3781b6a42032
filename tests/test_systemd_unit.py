"""The unit is one that systemd takes, starts the program that exists, and gives it little to do harm with."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "edge-agent.service"
# In tenths. What is left: the network, which the agent is for, and the device of a Raspberry Pi's firmware.
MAX_EXPOSURE = 14
IS_INSTALLED = shutil.which("systemd-analyze") is not None


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


needs_systemd = pytest.mark.skipif(not IS_INSTALLED, reason="systemd/ is not checked: apt-get install systemd")


@needs_systemd
def test_systemd_accepts_the_unit_without_a_warning(tmp_path: Path) -> None:
    # Only the program's place is not there on a machine that has it in a virtual environment.
    text, replaced = re.subn(
        r"^ExecStart=/opt/edge-agent/current/bin/edge-agent ",
        "ExecStart=/bin/true ",
        UNIT.read_text("utf-8"),
        flags=re.MULTILINE,
    )
    assert replaced == 1
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    done = analyze("verify", str(tmp_path / UNIT.name))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_unit_exposes_little() -> None:
    if "--offline" not in analyze("--help").stdout:
        pytest.skip("the exposure of systemd/ is not checked: needs systemd 250")
    done = analyze("security", "--no-pager", "--offline=true", f"--threshold={MAX_EXPOSURE}", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr


def test_unit_does_not_restart_after_a_bad_configuration() -> None:
    assert "RestartPreventExitStatus=78" in UNIT.read_text("utf-8").splitlines()
