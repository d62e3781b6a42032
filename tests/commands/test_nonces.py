from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.commands import nonces as module
from edge_agent.commands.nonces import Nonces


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "nonces"


def test_the_latest_are_known_to_the_next_process_of_any_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    for number in range(100):
        one = Nonces(path)
        assert str(number) * 5000 not in one
        one.add(str(number) * 5000)
        assert path.stat().st_size <= 10 * 16
    assert all(str(number) * 5000 in Nonces(path) for number in range(95, 100))
    assert len(Nonces(path)) <= 10
    assert path.stat().st_mode & 0o077 == 0


def test_what_was_cut_off_is_one_and_no_other(path: Path) -> None:
    one = Nonces(path)
    for name in "abc":
        one.add(name)
    os.truncate(path, 16 * 2 + 5)
    again = Nonces(path)
    again.add("d")
    assert [name in Nonces(path) for name in "abcd"] == [True, True, False, True]


@pytest.mark.expects_warning
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_where_there_can_be_no_file_they_are_known_in_memory(path: Path, make: object) -> None:
    path.parent.mkdir()
    assert callable(make)
    make(path)
    one = Nonces(path)
    one.add("a")
    assert "a" in one
    assert "a" not in Nonces(path)
