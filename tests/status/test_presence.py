from edge_agent.core.topics import Topics
from edge_agent.status.presence import Presence


def test_a_session_of_another_process_is_recognized() -> None:
    own, other = (Presence(Topics("edgeai/v1", "hall1", "board1")) for _ in range(2))
    for _ in range(3):
        assert own.foreign_session(own.begin_session_with_will().payload) is None
    assert own.foreign_session(other.begin_session_with_will().payload) == other.session
    for nonsense in (b"", b"offline", b"\xff", b"[]", b"{}", b'{"session":7}', b"[" * 100_000):
        assert own.foreign_session(nonsense) is None
