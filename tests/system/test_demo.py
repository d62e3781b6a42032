"""`edge-agent demo` as a user meets it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from edge_agent.signals.sparkplug import decode
from edge_agent.tools.demo import broker as broker_module
from edge_agent.tools.demo.broker import BrokerError, free_port, start_broker
from edge_agent.tools.demo.demo import (
    AUDIT_RATE,
    PUMPS,
    READINGS_PER_PUMP,
    TOPICS,
    TRIAGE,
    _page,
    chosen_readings,
    demo,
)
from edge_agent.tools.demo.pumps import SparkplugPump
from tests.conftest import NEEDS_CLIENTS
from tests.docs.pages import sample
from tests.helpers.processes import Mosquitto, wait_until


def test_a_reading_names_the_pump_of_its_topic() -> None:
    names = [json.loads(reading.payload)["machine"] for reading in chosen_readings()]
    assert names == [pump.name for pump in PUMPS] * READINGS_PER_PUMP


def test_a_sparkplug_pump_numbers_its_messages_without_gaps_from_each_birth_on() -> None:
    pump, reading = SparkplugPump("p"), chosen_readings()[0].payload
    for _ in range(2):
        said = [*pump.births(reading, 7), *pump.publications(reading, 8), *pump.publications(reading, 12)]
        assert [decode(publication.payload).seq for publication in said] == [0, 1, 2, 3]


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


@pytest.fixture(params=["mosquitto", "embedded"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The broker that the demonstration finds."""
    if request.param == "embedded":
        monkeypatch.setattr(broker_module, "SEARCH_PATH", "/nowhere")
    elif not Mosquitto.is_installed():
        pytest.skip("needs mosquitto")
    return str(request.param)


@pytest.mark.usefixtures("kind")
def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(BrokerError, match="in use: name another"):
        start_broker(other.getsockname()[1], tmp_path)


def test_pumps_are_answered_rightly_however_they_publish(
    kind: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert demo(None, cache / "edge-agent" / "demo", keep=False) == 0
    printed = capsys.readouterr().out
    assert ("mosquitto" if kind == "mosquitto" else "rumqttd") in printed
    shown = sample("quickstart", "text", "12 readings")
    start = printed.index("12 readings")
    assert printed[start : printed.index("\npump ", start)] in shown
    header, *rows = [line for line in printed.splitlines() if line.startswith("pump")]
    assert [row.split()[1] for row in rows] == [pump.publishes for pump in PUMPS] * READINGS_PER_PUMP
    assert header.split() in [line.split() for line in shown.splitlines()]
    own, seen = (header.index(word) + len(word) for word in ("agent", "sensor"))
    for row in rows:
        assert row.split()[-3] == "yes"
        assert 0 < float(row[:own].split()[-1]) < float(row[:seen].split()[-1])


def test_the_page_takes_another_port_if_its_own_is_taken() -> None:
    wish = free_port()
    assert free_port(wish) == wish
    with socket.create_server(("127.0.0.1", wish)):
        assert free_port(wish) != wish


def test_the_page_is_on_the_port_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with _page(free_port(), tmp_path, port):
        assert f"The page is at http://127.0.0.1:{port}/" in capsys.readouterr().out


def test_the_page_has_all_checks_that_the_board_waits_for(cache: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "edge_agent", "demo", "--keep", "--web", "--web-port", address.rpartition(":")[2]]
    command += ["--work", str(cache / "edge-agent" / "demo")]
    heard = set[float | None]()

    def has_heard_health() -> bool:
        """Whether the page has heard several documents, because a single one may have overtaken a check."""
        board = httpx.get(f"{address}/api/v1/boards/board1").json().get("board", {})
        heard.add(board.get("health_at"))
        return len(heard - {None}) > 2

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any(address in line for line in process.stdout)
            wait_until(has_heard_health, "the page has heard the board's health")
            assert httpx.get(f"{address}/api/v1/checks").json()["not_here"] == []
            tasks = httpx.get(f"{address}/api/v1/boards/board1").json()["tasks"]
            assert [task["audit_rate"] for task in tasks if task["name"] == TRIAGE] == [AUDIT_RATE]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@NEEDS_CLIENTS
def test_the_commands_that_it_prints_work_as_printed_until_a_signal_ends_agent_and_broker(
    kind: str, cache: Path, tmp_path: Path
) -> None:
    hidden = "" if kind == "mosquitto" else "broker.SEARCH_PATH = '/nowhere'; "
    code = f"from edge_agent import cli; from edge_agent.tools.demo import broker; {hidden}raise SystemExit(cli.main())"
    printed = tmp_path / "printed"
    with printed.open("wb") as file:
        command = [sys.executable, "-c", code, "demo", "--keep", "--work", str(cache / "edge-agent" / "demo")]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until(lambda: "edge-agent watch" in printed.read_text("utf-8"), "the demonstration stays up", 120)
        lines = printed.read_text("utf-8").split("In another terminal:")[1].splitlines()
        listen, publish, count, request, ask, watch = (line.strip() for line in lines if line.strip())
        listener = subprocess.Popen(["bash", "-c", f"{listen} -C 2 -W 30"], stdout=subprocess.PIPE, text=True)
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        environment = {**os.environ, "PATH": path}
        for line in (request, ask):
            done = subprocess.run(
                ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=True, env=environment
            )
            assert json.loads(done.stdout)["status"] == "ok"
        seen = subprocess.run(
            ["bash", "-c", watch], capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        assert re.search(r"^board1 +(ok|degraded) ", seen.stdout, re.MULTILINE)
        for line in (publish, count):
            subprocess.run(["bash", "-c", line], check=True, timeout=60)
        heard, _ = listener.communicate(timeout=60)
        topics_and_replies = [line.split(" ", 1) for line in heard.splitlines()]
        assert {topic.rpartition("/")[0] for topic, _ in topics_and_replies} == {
            f"{TOPICS.base}/infer/machine-triage",
            "plant/pump-1",
        }
        assert {json.loads(reply)["status"] for _, reply in topics_and_replies} == {"ok"}

        started = psutil.Process(process.pid).children(recursive=True)
        if kind == "mosquitto":
            # A terminal's Ctrl-C reaches the whole group, the demonstration's agent too, and is no fault.
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == 0
            assert "edge-agent:" not in printed.read_text("utf-8")
        else:
            process.terminate()
            assert process.wait(60) in (0, 1)
        wait_until(lambda: not any(child.is_running() for child in started), "broker and agent have ended", 20)
    finally:
        process.kill()
        process.wait()
