"""Each unit is one that systemd takes, starts the program that exists, and gives it little to do harm with."""

import re
import shutil
import subprocess
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock

import pytest

from tests.helpers.certificates import CERTIFICATE, KEY
from tests.helpers.processes import EdgeAgent

SYSTEMD = Path(__file__).parents[1] / "systemd"
AGENT, PAGE = SYSTEMD / "edge-agent.service", SYSTEMD / "edge-agent-web.service"
# In tenths. What is left is the network, which both are for, and the device of a Raspberry Pi's firmware.
MAX_EXPOSURES = {AGENT: 14, PAGE: 11}
of_each_unit = pytest.mark.parametrize("unit", MAX_EXPOSURES, ids=lambda unit: unit.stem)
IS_INSTALLED = shutil.which("systemd-analyze") is not None


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


needs_systemd = pytest.mark.skipif(not IS_INSTALLED, reason="systemd/ is not checked: apt-get install systemd")


@needs_systemd
@of_each_unit
def test_systemd_accepts_the_unit_without_a_warning(tmp_path: Path, unit: Path) -> None:
    # Only the program's place is not there on a machine that has it in a virtual environment.
    text, replaced = re.subn(
        r"^ExecStart=/opt/edge-agent(/current|-web)/bin/edge-agent ",
        "ExecStart=/bin/true ",
        unit.read_text("utf-8"),
        flags=re.MULTILINE,
    )
    assert replaced == 1
    (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = analyze("verify", str(tmp_path / unit.name))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@of_each_unit
def test_the_unit_exposes_little(unit: Path) -> None:
    if "--offline" not in analyze("--help").stdout:
        pytest.skip("the exposure of systemd/ is not checked: needs systemd 250")
    done = analyze("security", "--no-pager", "--offline=true", f"--threshold={MAX_EXPOSURES[unit]}", str(unit))
    assert done.returncode == 0, done.stdout + done.stderr


def test_unit_does_not_restart_after_a_bad_configuration() -> None:
    assert "RestartPreventExitStatus=78" in AGENT.read_text("utf-8").splitlines()


def test_the_page_takes_the_options_and_files_of_its_unit(
    tmp_path: Path, edge_agent: EdgeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text("utf-8")
    assert "RestartPreventExitStatus=64" in text.splitlines()
    command = re.search(r"^ExecStart=\S+ (.*?[^\\])$", text, flags=re.MULTILINE | re.DOTALL)
    assert command is not None
    handed_over = re.findall(r"^LoadCredential=(\S+):/etc/edge-agent-web/\1$", text, flags=re.MULTILINE)
    assert sorted(re.findall(r"%d/(\S+)", command[1])) == sorted(handed_over)
    contents = {"mqtt_password": "secret", "ca.pem": CERTIFICATE, "page.pem": CERTIFICATE, "page.key": KEY}
    for name in handed_over:
        (tmp_path / name).write_text(contents.get(name, '{"users": {}}'), "utf-8")
    serve = AsyncMock(return_value=0)
    monkeypatch.setattr("edge_agent.web.web._serve", serve)
    # The demonstration's page may have the port.
    monkeypatch.setattr("socket.create_server", MagicMock())
    arguments = command[1].replace("\\\n", " ").replace("%d", str(tmp_path)).replace("%S", str(tmp_path)).split()
    ended = edge_agent(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    serve.assert_called_once()
