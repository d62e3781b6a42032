"""`edge-agent demo` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edge_agent.tools.demo.broker import free_port
from edge_agent.tools.demo.demo import PUMPS, READINGS_PER_PUMP, chosen_readings
from tests.helpers.processes import wait_until


def test_a_reading_names_the_pump_of_its_topic() -> None:
    names = [json.loads(reading.payload)["machine"] for reading in chosen_readings()]
    assert names == [*PUMPS] * READINGS_PER_PUMP


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_a_home_folder_without_room_for_the_model_is_named_with_the_remedy(variable: str) -> None:
    command = [sys.executable, "-m", "edge_agent", "demo"]
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    done = subprocess.run(
        command, env={**environment, variable: "/dev/null"}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-agent: there is no folder for the converted model: ")
    assert line.endswith("; name one with --work DIR")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first demonstration keeps its converted model for the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_demonstration_ends_with_its_agent_and_its_broker(
    tmp_path: Path, cache: Path, number: signal.Signals
) -> None:
    printed = tmp_path / "printed"
    with printed.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_agent", "demo", "--keep", "--port", str(free_port())],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            start_new_session=True,
        )
    try:
        wait_until(lambda: "until Ctrl-C" in printed.read_text("utf-8"), "the demonstration stays up", 120)
        started = psutil.Process(process.pid).children(recursive=True)
        if number is signal.SIGINT:
            # A terminal's Ctrl-C reaches the whole group, the demonstration's agent too, and is no fault.
            os.killpg(process.pid, number)
            assert process.wait(20) == 0
            assert "edge-agent:" not in printed.read_text("utf-8")
        else:
            process.send_signal(number)
            assert process.wait(60) in (0, 1)
        wait_until(lambda: not any(child.is_running() for child in started), "broker and agent have ended", 20)
    finally:
        process.kill()
        process.wait()
