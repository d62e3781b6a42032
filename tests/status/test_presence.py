from __future__ import annotations

import json
from typing import Any

from edge_agent import __version__
from edge_agent.core.publications import Publication
from edge_agent.core.topics import Topics
from edge_agent.status.presence import Presence, State
from tests.helpers.support import BASE


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


def test_until_the_model_answers_the_board_is_offline_with_reason_starting() -> None:
    one = presence()
    one.will()
    assert (read(one.birth())["state"], read(one.birth())["reason"]) == ("offline", "starting")


def test_will_and_birth_of_a_connection_carry_the_same_session() -> None:
    one = presence()
    one.set_state(State.ONLINE, None)
    will, birth = read(one.will()), read(one.birth())
    assert will["session"] == birth["session"] == one.session
    assert will["connected_at"] == birth["connected_at"]
    assert (will["state"], birth["state"]) == ("offline", "online")
    assert will["reason"] == "connection-lost"
    assert birth["version"] == __version__


def test_each_connection_has_a_session_of_its_own() -> None:
    one = presence()
    assert len({read(one.will())["session"] for _ in range(5)}) == 5


def test_a_session_of_another_process_is_recognized() -> None:
    one, other = presence(), presence()
    for _ in range(3):
        assert one.foreign_session(one.will().payload) is None
    assert one.foreign_session(other.will().payload) == other.session
    for nonsense in (b"", b"offline", b"\xff", b"[]", b"{}", b'{"session":7}', b"[" * 100_000):
        assert one.foreign_session(nonsense) is None


def test_a_draining_board_publishes_its_reason() -> None:
    one = presence()
    one.set_state(State.DRAINING, "drain command")
    assert (read(one.birth())["state"], read(one.birth())["reason"]) == ("draining", "drain command")
