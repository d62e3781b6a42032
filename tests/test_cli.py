from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent import cli
from tests.helpers.support import CONFIG


@pytest.mark.parametrize("arguments", [["ask", "triage", "x"], ["run"], ["check-config"]])
def test_a_missing_default_configuration_names_the_option_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(cli, "DEFAULT_PATH", tmp_path / "config.toml")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert cli.main(arguments) == cli.EXIT_CONFIG
    told = f"{tmp_path}/config.toml: cannot be read: No such file or directory; --config FILE names another\n"
    assert capsys.readouterr().err == told


def test_a_missing_configuration_that_was_named_gets_no_such_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ask", "--config", str(tmp_path / "none"), "triage", "x"]) == cli.EXIT_CONFIG
    assert "--config" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a/b", "x"], "letters, digits"),
        (["#", "x"], "letters, digits"),
        (["t", "x", "--deadline-ms", "86400001"], 'from 1 to 86400000 (got "86400001")'),
        (["t", "x", "--deadline-ms", "0"], 'from 1 to 86400000 (got "0")'),
        (["t", "x", "--deadline-ms", "9" * 5000], "from 1 to 86400000"),
        (["t", "x", "--deadline-ms", "\x1b[31m"], "from 1 to 86400000"),
        (["t", "x", "--priority", "5.5"], 'an integer from 0 to 9 (got "5.5")'),
        (["t", "x", "--options", "[" * 60_000], "a JSON object: it is nested deeper"),
        (["t", "x", "--options", '{"stop":"\udcff"}'], "a JSON object: a string holds half"),
        (["t", "x", "--options", '{"seed":NaN}'], "a JSON object: NaN is not a JSON number"),
        (["t", "x", "--options", "[]"], "a JSON object (got"),
    ],
)
def test_a_request_that_no_agent_would_accept_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask", *words])
    assert ended.value.code == cli.EXIT_USAGE
    fault = capsys.readouterr().err
    assert "\x1b" not in fault
    assert len(fault) < 1000
    assert expected in fault


def test_a_closed_standard_output_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    command = f"{sys.executable} -m edge_agent check-config {tmp_path}/config.toml >&-"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, "Error" in done.stderr) == (cli.EXIT_OK, False), done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_ends_early_is_no_traceback(tmp_path: Path, unbuffered: str) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edge_agent", "check-config", str(tmp_path / "config.toml")]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, b"Error" in done.stderr) == (cli.EXIT_FAILED, False), done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path, unbuffered: str) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    command = [sys.executable, "-m", "edge_agent", "check-config", str(tmp_path / "config.toml")]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    told = done.stderr.splitlines()[-1:]
    assert (done.returncode, told) == (cli.EXIT_FAILED, [b"edge-agent: [Errno 28] No space left on device"])
    assert b"Traceback" not in done.stderr
