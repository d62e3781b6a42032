import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent import cli
from tests.helpers.processes import EdgeAgent, Ended
from tests.helpers.support import CONFIG


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_a_port_of_the_demonstration_that_cannot_be_is_a_usage_error(edge_agent: EdgeAgent, port: str) -> None:
    done = edge_agent("demo", "--port", port)
    assert done.returncode == cli.EXIT_USAGE
    assert f'--port: should be a port, 1 to 65535 (got "{port}")' in done.stderr


def test_an_unknown_option_shows_the_usage_of_its_command(edge_agent: EdgeAgent) -> None:
    done = edge_agent("init", "--output", "x")
    assert done.returncode == cli.EXIT_USAGE
    assert done.stderr.startswith("usage: edge-agent init ")
    assert done.stderr.endswith("edge-agent init: error: unrecognized arguments: --output x\n")


@pytest.mark.parametrize(("words", "required"), [(["--web"], "--keep"), (["--web-port", "8080"], "--web")])
def test_an_option_of_the_demonstration_names_the_one_that_it_requires(
    edge_agent: EdgeAgent, words: list[str], required: str
) -> None:
    done = edge_agent("demo", *words)
    assert done.returncode == cli.EXIT_USAGE
    assert f"{words[0]}: requires {required}" in done.stderr


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
def test_a_request_that_no_agent_takes_is_a_usage_error(edge_agent: EdgeAgent, words: list[str], expected: str) -> None:
    done = edge_agent("ask", *words)
    assert done.returncode == cli.EXIT_USAGE
    assert "\x1b" not in done.stderr
    assert len(done.stderr) < 1000
    assert expected in done.stderr


def test_a_task_that_no_configuration_may_have_is_a_usage_error(tmp_path: Path, edge_agent: EdgeAgent) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, "utf-8")
    done = edge_agent("ask", "--config", tmp_path / "config.toml", "a/b", "x")
    assert done.returncode == cli.EXIT_USAGE
    assert 'TASK should be 1 to 64 letters, digits, _ or - (got "a/b")' in done.stderr


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
    tmp_path: Path, edge_agent: EdgeAgent, command: str, more: str, code: int, err: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[device]\nsite = "s"\n{more}[models.default]\npath = "echo:"\n', "utf-8")
    assert edge_agent(*command.split(), path) == Ended(code, "" if code else f"{path}: good\n", err and f"{path}{err}")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("--config-only --json", "--json: does not go with --config-only"),
        ("--config-only --host h --site s --device d", "--host: goes neither with --config-only"),
        ("--bundle b --host h --site s --device d", "--host: goes neither with --config-only nor with --bundle"),
        ("--config-only --port 1", "--port: requires --host"),
    ],
)
def test_what_doctor_would_ignore_is_a_usage_error(edge_agent: EdgeAgent, words: str, fault: str) -> None:
    done = edge_agent("doctor", *words.split())
    assert (done.returncode, fault in done.stderr) == (cli.EXIT_USAGE, True)


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
