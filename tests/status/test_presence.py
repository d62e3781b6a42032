from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.board.board import Board
from edge_agent.core.protocol import Ready
from edge_agent.core.publications import Publication
from edge_agent.core.topics import Topics
from edge_agent.models.bundle import open_model
from edge_agent.requests.tasks import load_tasks
from edge_agent.status.presence import Presence, State, info_document
from tests.helpers.support import BASE, TASKS, config
from tests.status.test_health import READY


def presence() -> Presence:
    return Presence(Topics("edgeai/v1", "hall1", "board1"))


def read(publication: Publication) -> dict[str, Any]:
    document = json.loads(publication.payload)
    assert isinstance(document, dict)
    return document


def test_the_state_is_retained_at_qos_1_with_the_fields_of_the_contract() -> None:
    one = presence()
    for publication in (one.will(), one.birth()):
        assert (publication.topic, publication.qos, publication.retain) == (f"{BASE}/state", 1, True)
        assert set(read(publication)) == {"state", "session", "connected_at", "reason", "version"}


def test_until_the_model_answers_the_board_is_offline_because_it_starts() -> None:
    one = presence()
    one.will()
    assert (read(one.birth())["state"], read(one.birth())["reason"]) == ("offline", "starting")


def test_will_and_birth_of_a_connection_carry_the_same_session() -> None:
    one = presence()
    one.state, one.reason = State.ONLINE, None
    will, birth = read(one.will()), read(one.birth())
    assert will["session"] == birth["session"] == one.session
    assert will["connected_at"] == birth["connected_at"]
    assert (will["state"], birth["state"]) == ("offline", "online")
    assert will["reason"] == "connection-lost"
    assert birth["version"] == __version__


def test_each_connection_has_a_session_of_its_own() -> None:
    one = presence()
    assert len({read(one.will())["session"] for _ in range(5)}) == 5


def test_a_session_of_another_process_is_told_from_our_own() -> None:
    one, other = presence(), presence()
    for _ in range(3):
        assert one.foreign_session(one.will().payload) is None
    assert one.foreign_session(other.will().payload) == other.session
    for nonsense in (b"", b"offline", b"\xff", b"[]", b"{}", b'{"session":7}', b"[" * 100_000):
        assert one.foreign_session(nonsense) is None


def test_a_draining_board_says_so() -> None:
    one = presence()
    one.state, one.reason = State.DRAINING, "drain command"
    assert (read(one.birth())["state"], read(one.birth())["reason"]) == ("draining", "drain command")


def info(tmp_path: Path, worker: Ready | None) -> dict[str, Any]:
    settings = config(TASKS)
    board = Board(tmp_path, tmp_path)
    return info_document(settings, board, open_model("default", Path("echo:")), load_tasks(settings), worker=worker)


def test_info_tells_who_this_is_and_what_it_can_do(tmp_path: Path) -> None:
    document = info(tmp_path, READY)
    assert document["schema"] == 1
    assert (document["site"], document["device"]) == ("hall1", "board1")
    assert document["cpu_features"] == []
    assert document["tasks"]["triage"]["labels"] == ["normal", "bearing fault"]
    assert "generate" in document["tasks"]
    assert {"name", "sha256", "quantization", "licence", "signature"} <= set(document["models"][0])
    assert document["limits"]["context_tokens"] == 2048
    assert document["limits"]["max_payload_bytes"] == 65536
    assert document["versions"]["edge_agent"] == __version__
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_info_before_the_model_answers_leaves_open_what_only_it_can_tell(tmp_path: Path) -> None:
    document = info(tmp_path, None)
    assert document["limits"]["context_tokens"] is None
    assert set(document["engine"].values()) == {None}
