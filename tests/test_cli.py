import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent import cli
from tests.helpers.support import CONFIG


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port_of_the_demonstration_that_cannot_be_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], port: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--port", port])
    assert ended.value.code == cli.EXIT_USAGE
    assert f'--port: should be a port, 1 to 65535 (got "{port}")' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["t", "x", "--deadline-ms", "\x1b[31m"], "invalid int value"),
        (["t", "x", "--priority", "10"], "invalid choice: '10'"),
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


def test_a_task_that_no_configuration_may_have_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    assert cli.main(["ask", "--config", str(tmp_path / "config.toml"), "a/b", "x"]) == cli.EXIT_USAGE
    assert 'TASK should be 1 to 64 letters, digits, _ or - (got "a/b")' in capsys.readouterr().err


def test_the_daemon_and_version_import_no_library_that_only_some_of_their_work_needs() -> None:
    names = "cryptography", "jsonschema", "llama_cpp", "matplotlib", "numpy", "rich", "edge_agent.tools.watch"
    code = f"import sys, edge_agent.agent, edge_agent.cli; print({{*{names!r}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("command", ["check-config", "doctor --config-only", "doctor --config-only --config"])
@pytest.mark.parametrize(
    ("more", "code", "err"), [("", 0, ""), ("tsk = 1\n", 78, ": device.tsk: unknown key (got 1); allowed: id, site\n")]
)
def test_a_configuration_alone_is_checked_under_both_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, more: str, code: int, err: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[device]\nsite = "s"\n{more}[models.default]\npath = "echo:"\n', "utf-8")
    assert cli.main([*command.split(), str(path)]) == code
    assert capsys.readouterr() == (("" if code else f"{path}: good\n"), err and f"{path}{err}")


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
