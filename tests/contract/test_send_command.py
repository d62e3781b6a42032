"""`edge-agent command` over a real broker: to an agent, and to boards that come, go and say nothing."""

import json
import secrets
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_agent import cli
from edge_agent.loader import load_config
from edge_agent.tools.bus import Bus, NoAnswerError
from edge_agent.tools.command import send_command
from tests.helpers.client import Client, Connect
from tests.helpers.processes import BrokerPort, EdgeAgent
from tests.helpers.site import StartSite, written_config


def test_it_prints_the_result_and_returns_its_exit_code(
    start_site: StartSite, tmp_path: Path, protocol: str, edge_agent: EdgeAgent
) -> None:
    (tmp_path / "key").write_text(f"{secrets.token_hex(16)}\n", "utf-8")
    site = start_site(protocol, more='[commands]\nallow = ["ping", "cancel"]\nkey_file = "key"\n')
    of_board, key = ("--config", site.agent.config), ("--command-key", tmp_path / "key")
    # These words need no configuration, as on a PC.
    broker = ("--host", "127.0.0.1", "--port", site.port, "--protocol", protocol)
    anywhere = (*broker, "--site", "test", "--device", site.base.split("/")[-1])
    for words, code, told in (
        ((*of_board, "ping"), cli.EXIT_OK, ("status", "ok")),
        ((*of_board, "ping", '{"id": "mine"}'), cli.EXIT_OK, ("id", "mine")),
        ((*of_board, "cancel", '{"request_id": "grün", "hmac": 1}'), cli.EXIT_OTHER_STATUS, ("code", "not_found")),
        ((*of_board, "drain"), cli.EXIT_OTHER_STATUS, ("code", "not_allowed")),
        (("ping", *anywhere), cli.EXIT_OTHER_STATUS, ("code", "unauthorized")),
        (("ping", *anywhere, *key), cli.EXIT_OK, ("status", "ok")),
    ):
        done = edge_agent("command", *words)
        assert done.returncode == code
        assert told in {**done.document, **(done.document["error"] or {})}.items()
    (tmp_path / "key").unlink()
    done = edge_agent("command", *of_board, "ping")
    assert done.returncode == cli.EXIT_CONFIG
    assert "commands.key_file: should be a file that can be read" in done.stderr


@pytest.mark.parametrize("words", ["fly", "drain 5", "ping --timeout 0"])
def test_an_invalid_command_is_a_usage_error(words: str, edge_agent: EdgeAgent) -> None:
    assert edge_agent("command", *words.split()).returncode == cli.EXIT_USAGE


class Board:
    """What a board says of itself, and hears. It gives no results."""

    def __init__(self, client: Client, port: int, folder: Path, protocol: str) -> None:
        self.client = client
        name = f"fake-{secrets.token_hex(4)}"
        self.base = f"edgeai/v1/test/{name}"
        config = load_config(written_config(folder, "echo:", device=name, port=port, protocol=protocol))
        self.bus = Bus(mqtt=config.mqtt, site="test", device=name)
        client.subscribe(f"{self.base}/cmd/+")

    def says(self, state: str, session: str, reason: str | None = None) -> None:
        document = {"state": state, "session": session, "reason": reason}
        self.client.publish(f"{self.base}/state", document, retain=True)

    def hears(self) -> dict[str, Any]:
        return self.client.wait(f"{self.base}/cmd/ping")[0].json


@pytest.fixture
def board(connect: Connect, broker_port: BrokerPort, tmp_path: Path, protocol: str) -> Board:
    return Board(connect(protocol), broker_port(protocol), tmp_path, protocol)


def commanded(board: Board) -> tuple[threading.Thread, list[Any]]:
    """A command under way, and how it ended, once it has."""
    ends: list[Any] = []

    def send() -> None:
        try:
            ends.append(send_command(board.bus, "ping", {}, timeout_s=30.0))
        except NoAnswerError as error:
            ends.append(str(error))

    thread = threading.Thread(target=send)
    thread.start()
    return thread, ends


@pytest.mark.parametrize(("state", "session"), [("online", "another"), ("offline", "one"), ("stopped", "one")])
def test_it_does_not_wait_for_a_board_that_goes_before_its_result(board: Board, state: str, session: str) -> None:
    board.says("draining", "one")
    thread, ends = commanded(board)
    board.hears()
    board.says(state, session, "connection-lost" if state == "offline" else None)
    thread.join()
    assert ends == [f"no result from {board.base}, which left the bus or returned to it in the meantime"]


def test_it_waits_for_a_board_that_is_away_and_ignores_other_results(board: Board) -> None:
    board.says("offline", "one", "connection-lost")
    thread, ends = commanded(board)
    board.says("stopped", "two")
    board.says("offline", "three", "starting")
    identity = board.hears()["id"]
    topic = f"{board.base}/cmd/ping/result"
    for payload in (b"\xff", b"[]", b'{"id":"x","status":"ok"}', json.dumps({"id": identity, "status": "ok"}).encode()):
        board.client.publish(topic, payload)
    thread.join()
    assert ends == [{"id": identity, "status": "ok"}]
    assert len(board.client.on(f"{board.base}/cmd/ping")) == 1


@pytest.mark.parametrize(("version", "by"), [("0.2.0", "ana@pc-7"), ("0.1.0", None)])
def test_it_says_who_sends_it_to_boards_that_take_this(
    board: Board, monkeypatch: pytest.MonkeyPatch, version: str, by: str | None
) -> None:
    monkeypatch.setenv("SUDO_USER", "ana")
    monkeypatch.setattr("socket.gethostname", lambda: "pc-7")
    document = {"state": "online", "session": "one", "version": version}
    board.client.publish(f"{board.base}/state", document, retain=True)
    thread, _ = commanded(board)
    assert board.hears().get("by") == by
    board.says("stopped", "one")
    thread.join()


@pytest.mark.parametrize("last", [None, ("offline", "one", "connection-lost"), ("stopped", "one")])
def test_nothing_is_sent_to_an_absent_board(board: Board, last: tuple[str, ...] | None) -> None:
    if last:
        board.says(*last)
    with pytest.raises(NoAnswerError, match=r"is not on the bus \(broker .*\), so nothing was sent within 0.5 s"):
        send_command(board.bus, "ping", {}, timeout_s=0.5)
    assert not board.client.on(f"{board.base}/cmd/ping")


@pytest.mark.expects_warning
def test_without_a_broker_it_ends_at_once(tmp_path: Path) -> None:
    bus = Bus(mqtt=load_config(written_config(tmp_path, "echo:")).mqtt, site="test", device="b")
    with pytest.raises(NoAnswerError, match="no connection to the broker"):
        send_command(bus, "ping", {}, timeout_s=30.0)
