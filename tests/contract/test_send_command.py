"""`edge-agent command` over a real broker: to an agent, and to boards that come, go and say nothing."""

import json
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent import cli
from edge_agent.loader import load_config
from edge_agent.tools.bus import Bus, NoAnswerError
from edge_agent.tools.command import send_command
from tests.helpers.client import Client
from tests.helpers.site import Site, written_config


def test_it_prints_the_result_and_returns_its_exit_code(
    start_site: Callable[..., Site], tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(f"{secrets.token_hex(16)}\n", "utf-8")
    site = start_site(protocol, more='[commands]\nallow = ["ping", "cancel"]\nkey_file = "key"\n')
    words = ["command", "--config", str(site.agent.config)]
    assert cli.main([*words, "ping"]) == cli.EXIT_OK
    assert json.loads(capsys.readouterr().out)["status"] == "ok"
    assert cli.main([*words, "ping", '{"id": "mine"}']) == cli.EXIT_OK
    assert json.loads(capsys.readouterr().out)["id"] == "mine"
    for operation, code in (('cancel {"request_id": "grün", "hmac": 1}', "not_found"), ("drain", "not_allowed")):
        assert cli.main([*words, *operation.split(" ", 1)]) == cli.EXIT_OTHER_STATUS
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    # Without the configuration, as on a PC.
    board = ["--host", "127.0.0.1", "--port", str(site.port), "--protocol", protocol, "--site", "test"]
    board += ["--device", site.base.split("/")[-1]]
    assert cli.main(["command", "ping", *board]) == cli.EXIT_OTHER_STATUS
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unauthorized"
    assert cli.main(["command", "ping", *board, "--command-key", str(tmp_path / "key")]) == cli.EXIT_OK
    assert json.loads(capsys.readouterr().out)["status"] == "ok"
    (tmp_path / "key").unlink()
    assert cli.main([*words, "ping"]) == cli.EXIT_CONFIG
    assert "commands.key_file: should be a file that can be read" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["fly"], ["drain", "5"], ["ping", "--timeout", "0"]])
def test_an_invalid_command_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["command", *words])
    assert end.value.code == cli.EXIT_USAGE


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
def board(connect: Callable[..., Client], broker_port: Callable[[str], int], tmp_path: Path, protocol: str) -> Board:
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
