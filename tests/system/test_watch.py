"""`edge-agent watch` over a real broker: in a terminal, and for scripts."""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_agent.mqtt.link import BACK_OFF_S
from edge_agent.tools.watch.advice import ADVICE
from tests.helpers.client import Client, Connect
from tests.helpers.processes import EdgeAgent, Ended, Mosquitto, free_port, wait_until
from tests.helpers.site import StartSite
from tests.tools.watch import boards
from tests.tools.watch.scenes import row_of
from tests.tools.watch.terminal import Terminal

pytestmark = [pytest.mark.mosquitto, pytest.mark.usefixtures("require_mosquitto")]

LEAVE = b"\x1b[?1049l"
SHOW_CURSOR = b"\x1b[?25h"
EVERY_SECOND = "[health]\ninterval_s = 1\n"


@dataclass
class Hall:
    """A site of its own at a broker, and boards in it whose part we play."""

    broker: Mosquitto
    client: Client
    protocol: str
    site: str = field(default_factory=lambda: f"hall-{secrets.token_hex(4)}")

    @property
    def flags(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.broker.port), "--site", self.site]
        return [*where, "--protocol", self.protocol]

    def say(self, device: str, topic: str, payload: bytes, expiry_s: int | None = None) -> None:
        self.client.publish(f"edgeai/v1/{self.site}/{device}/{topic}", payload, retain=True, expiry_s=expiry_s)

    def play(self, device: str, **changes: Any) -> None:
        now = time.time()
        self.say(device, "info", boards.info(3600))
        self.say(device, "state", boards.state(session=device, connected_at=now))
        self.say(device, "health", boards.health(1, device, at=now, **changes), 10_800)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto"), free_port()) as broker:
        yield broker


@pytest.fixture
def hall(broker: Mosquitto, connect: Connect, protocol: str) -> Hall:
    return Hall(broker, connect(protocol, port=broker.port), protocol)


@pytest.mark.expects_warning
def test_an_operator_sees_the_boards_live(
    tmp_path: Path, connect: Connect, start_site: StartSite, protocol: str
) -> None:
    broker = Mosquitto(tmp_path, free_port())
    broker.start()
    hall = Hall(broker, connect(protocol, port=broker.port), protocol, "test")
    agent = start_site(protocol, port=broker.port, device="agent", more=EVERY_SECOND)
    hot = {"thermal__soc_c": 84.2, "thermal__headroom_c": 0.8, "thermal__throttled_now": True}
    hall.play("press-04", overall="critical", thermal__causes=["thermal"], **hot)
    hall.say("press-04", "alarm/overheating", boards.alarm("84.2 °C", severity="critical", session="press-04"))
    hall.play("conveyor-01")
    hall.say("evil", "state", b"\x1b[2J\x1b[31m{")
    with Terminal(["watch", *hall.flags]) as terminal:
        summary = "test  4 boards  1 CRITICAL  1 unknown  2 ok"
        lines = terminal.wait_for(lambda lines: lines[0].startswith(summary) and row_of(lines, "evil"), "the boards")
        assert row_of(lines, "agent")[1] == row_of(lines, "conveyor-01")[1] == "ok"
        assert lines[2].split()[:3] == ["press-04", "CRITICAL", "84°"]
        assert "!! overheating for " in lines[2]
        assert any("throttled: thermal" in line for line in lines)
        assert any("state cannot be read" in line for line in lines)

        terminal.resize(120, 10)
        lines = terminal.wait_for(lambda lines: "WATTS" in lines[1], "resized")
        assert len(lines) == 10
        assert lines[0].startswith("test  4 boards")

        agent.agent.signal(signal.SIGKILL)
        terminal.wait_for(lambda lines: row_of(lines, "agent")[1:2] == ["OFFLINE"], "the agent's will")

        hall.broker.stop()
        lines = terminal.wait_for(lambda lines: lines[1].startswith("no connection to the broker"), "the loss is shown")
        assert row_of(lines, "conveyor-01")[1] == "ok"
        hall.broker.start()
        terminal.resize(120, 20)
        terminal.wait_for(lambda lines: not lines[1].startswith("no connection"), "connected again")
        # The broker came back without what it had retained, and the agent does not.
        lines = terminal.wait_for(lambda lines: "its broker has lost" in " ".join(lines), "the agent is kept")
        assert row_of(lines, "agent")[1] == "OFFLINE"
        assert "RabbitMQ" not in " ".join(lines)

        terminal.press("q")
        assert terminal.process.wait(10) == 0
        assert LEAVE in terminal.written
        assert SHOW_CURSOR in terminal.written
        assert terminal.settings_now == terminal.settings
    broker.stop()


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_any_end_restores_the_terminal(hall: Hall, number: signal.Signals) -> None:
    hall.play("press-04")
    with Terminal(["watch", *hall.flags]) as terminal:
        terminal.wait_for(lambda lines: row_of(lines, "press-04"), "boards")
        assert terminal.settings_now != terminal.settings
        terminal.process.send_signal(number)
        assert terminal.process.wait(10) == 0
        wait_until(lambda: LEAVE in terminal.written, "the screen is given back")
        assert SHOW_CURSOR in terminal.written
        assert terminal.settings_now == terminal.settings


def test_it_waits_for_a_broker(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, free_port())
    with Terminal(["watch", "--host", "127.0.0.1", "--port", str(broker.port), "--site", "test"]) as terminal:
        lines = terminal.wait_for(lambda lines: "Connection refused" in lines[1], "the reason")
        assert lines[0].startswith("test  0 boards")
        with broker:
            found = "no board on edgeai/v1/test/+ yet"
            terminal.wait_for(lambda lines: found in lines[1], f"connected within {BACK_OFF_S[1]} s")
            terminal.press("q")
            assert terminal.process.wait(10) == 0


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
def test_scripts_get_json(hall: Hall, edge_agent: EdgeAgent, start_site: StartSite) -> None:
    hall.site = "test"
    start_site(hall.protocol, port=hall.broker.port, device="agent", more=EVERY_SECOND)
    hall.play("press-04", power__watts=None)
    hall.say("forgotten", "state", boards.state())
    hall.say("forgotten", "health", boards.health(at=time.time() - 100))
    done = edge_agent("watch", *hall.flags, "--once", "--json")
    assert (done.returncode, done.stderr, done.document["site"]) == (2, "", "test")
    by_name = {board["device"]: board for board in done.document["boards"]}
    assert set(by_name) == {"press-04", "agent", "forgotten"}
    assert (by_name["forgotten"]["level"], by_name["forgotten"]["health"]) == ("stale", None)
    assert by_name["press-04"]["health"]["power"]["watts"] is None
    assert by_name["press-04"]["health"]["thermal"]["soc_c"] == 61.5
    real = by_name["agent"]
    assert (real["level"], real["state"]["state"], real["why"]) == ("ok", "online", [])
    assert (real["health"]["queue"]["depth"], real["health"]["queue"]["capacity"]) == (0, 64)
    assert real["health_age_s"] <= 3


def test_without_a_terminal_it_looks_once(hall: Hall, edge_agent: EdgeAgent) -> None:
    hall.play("press-04")
    done = edge_agent("watch", *hall.flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert row_of(lines, "press-04")[1] == "ok"


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
def test_an_expected_board_that_is_not_heard_is_missing(hall: Hall, edge_agent: EdgeAgent, tmp_path: Path) -> None:
    hall.play("press-04")
    (tmp_path / "boards").write_text("press-04\npress-05\n", "utf-8")
    hall.say("press-06", "state", boards.state())
    done = edge_agent("watch", *hall.flags, "--once", "--wait", "0.5", "--expect", tmp_path / "boards")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert (row_of(lines, "press-05")[1], row_of(lines, "press-04")[1]) == ("MISSING", "ok")
    # It could not be judged within half a second.
    assert row_of(lines, "press-06")[1] == "STALE"
    # Outside a terminal nothing is wrapped.
    assert [line for line in lines if "press-05" in line and line.endswith(f": {ADVICE['missing']}")]
    refused = edge_agent("watch", *hall.flags, "--expect", tmp_path / "none")
    assert (refused.returncode, "--expect" in refused.stderr) == (64, True)


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
def test_a_terminal_without_colours_or_unicode_shows_it_too(hall: Hall) -> None:
    hall.play("press-04", thermal__throttled_now=True)
    with Terminal(["watch", *hall.flags], NO_COLOR="1") as terminal:
        terminal.wait_for(lambda lines: row_of(lines, "press-04")[1:2] == ["degraded"], "boards")
        assert not re.search(rb"\x1b\[(?:\d+;)*[349][0-8](?:;\d+)*m", terminal.written)
    command = [sys.executable, "-m", "edge_agent", "watch", *hall.flags, "--once"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=ascii_only)
    assert (done.returncode, done.stderr) == (3, "")
    assert row_of(done.stdout.splitlines(), "press-04")[1] == "degraded"


def test_no_broker_and_no_board_have_an_exit_code(broker: Mosquitto, edge_agent: EdgeAgent) -> None:
    port = free_port()
    words = ("watch", "--host", "127.0.0.1", "--site", "nowhere", "--json", "--wait", "0.5", "--port")
    error = f"edge-agent: no connection to the broker 127.0.0.1:{port}: Connection refused\n"
    assert edge_agent(*words, port) == Ended(1, "", error)
    done = edge_agent(*words, broker.port)
    assert (done.returncode, done.document["boards"]) == (1, [])
    assert "no board on edgeai/v1/nowhere/+" in done.stderr
