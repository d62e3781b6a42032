from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.mqtt.subscriptions import FILE, Subscriptions


def test_what_an_earlier_process_wanted_is_ended_until_the_broker_knows(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert Subscriptions(folder).want({"a", "b/+"}) == set()
    # Killed before it came to a broker, and again.
    for _ in range(2):
        assert Subscriptions(folder).want({"a", "c/#"}) == {"b/+"}
    again = Subscriptions(folder)
    assert again.want({"a", "c/#"}) == {"b/+"}
    again.are({"a", "c/#"})
    assert again.want({"d"}) == {"a", "c/#"}
    again.are({"d"})
    assert Subscriptions(folder).want({"d"}) == set()
    assert [file.name for file in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"5", b"[" * 100_000, b'[1, null, "", "a/#/b", "\\ud800"]'])
@pytest.mark.expects_warning
def test_what_is_no_list_of_filters_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    one = Subscriptions(tmp_path)
    assert one.want({"a"}) == set()
    one.are({"a"})
    assert Subscriptions(tmp_path).want({"b"}) == {"a"}


def test_nobody_waits_for_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    assert Subscriptions(tmp_path).want({"a"}) == set()


@pytest.mark.expects_warning
def test_where_nothing_can_be_written_they_are_known_in_memory(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    one = Subscriptions(tmp_path / "state")
    assert one.want({"a"}) == set()
    assert one.want({"b"}) == {"a"}
