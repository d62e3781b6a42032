from __future__ import annotations

import json
from typing import Any

from edge_agent import __version__
from edge_agent.core.messages import Publication
from edge_agent.core.topics import Topics
from edge_agent.status.presence import Presence, State
from tests.helpers.support import BASE


def presence() -> Presence:
    return Presence(Topics("edgeai/v1", "hall1", "board1"))


def read(publication: Publication) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(publication.payload)
    return document


def test_will_and_birth_of_a_connection_are_retained_and_carry_the_same_session() -> None:
    one = presence()
    assert read(one.will())["session"] != read(one.will())["session"]
    assert (read(one.birth())["state"], read(one.birth())["reason"]) == ("offline", "starting")
    one.state, one.reason = State.DRAINING, "drain command"
    will, birth = one.will(), one.birth()
    for publication in (will, birth):
        assert (publication.topic, publication.qos, publication.retain) == (f"{BASE}/state", 1, True)
    document = {"session": one.session, "connected_at": read(birth)["connected_at"], "version": __version__}
    assert read(will) == {**document, "state": "offline", "reason": "connection-lost"}
    assert read(birth) == {**document, "state": "draining", "reason": "drain command"}


def test_a_session_of_another_process_is_recognized() -> None:
    one, other = presence(), presence()
    for _ in range(3):
        assert one.foreign_session(one.will().payload) is None
    assert one.foreign_session(other.will().payload) == other.session
    for nonsense in (b"", b"offline", b"\xff", b"[]", b"{}", b'{"session":7}', b"[" * 100_000):
        assert one.foreign_session(nonsense) is None
