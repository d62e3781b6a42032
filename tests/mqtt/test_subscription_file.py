from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.mqtt.subscription_file import FILE, SubscriptionFile


def test_what_an_earlier_process_wanted_is_ended_until_the_broker_knows(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert SubscriptionFile(folder).add({"a", "b/+"}) == set()
    # Killed before it came to a broker, and again.
    for _ in range(2):
        assert SubscriptionFile(folder).add({"a", "c/#"}) == {"b/+"}
    again = SubscriptionFile(folder)
    assert again.add({"a", "c/#"}) == {"b/+"}
    again.replace({"a", "c/#"})
    assert again.add({"d"}) == {"a", "c/#"}
    again.replace({"d"})
    assert SubscriptionFile(folder).add({"d"}) == set()
    assert [file.name for file in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"5", b"[" * 100_000, b'[1, null, "", "a/#/b", "\\ud800"]'])
@pytest.mark.expects_warning
def test_what_is_no_list_of_filters_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    one = SubscriptionFile(tmp_path)
    assert one.add({"a"}) == set()
    one.replace({"a"})
    assert SubscriptionFile(tmp_path).add({"b"}) == {"a"}


def test_nobody_waits_for_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    assert SubscriptionFile(tmp_path).add({"a"}) == set()


@pytest.mark.expects_warning
def test_where_nothing_can_be_written_they_are_known_in_memory(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    one = SubscriptionFile(tmp_path / "state")
    assert one.add({"a"}) == set()
    assert one.add({"b"}) == {"a"}
