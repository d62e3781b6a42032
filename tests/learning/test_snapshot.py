import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edge_agent.learning.commands.rows import snapshot
from edge_agent.store.database import FILE, connect, open_or_set_aside


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / FILE


@pytest.fixture
def agent(path: Path) -> Iterator[sqlite3.Connection]:
    """The connection of an agent that runs."""
    connection, _ = open_or_set_aside(path)
    yield connection
    connection.close()


def write(agent: sqlite3.Connection, since: str) -> None:
    """Two rows in one commit."""
    agent.execute("BEGIN")
    for fingerprint in ("a", "b"):
        agent.execute("INSERT OR REPLACE INTO quarantine VALUES (?, 'task', ?)", (fingerprint, since))
    agent.execute("COMMIT")


def begin_wal_anew(agent: sqlite3.Connection) -> None:
    agent.execute("PRAGMA wal_checkpoint(RESTART)")
    write(agent, "later")


def read(path: Path) -> list[Any]:
    with snapshot(path) as select:
        return [since for (since,) in select("SELECT since FROM quarantine WHERE task = ?", "task")]


def test_commits_in_the_wal_alone_are_seen_and_nothing_is_written(path: Path, agent: sqlite3.Connection) -> None:
    write(agent, "now")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    agent.execute("BEGIN")
    agent.execute("DELETE FROM quarantine")
    assert read(path) == ["now", "now"]
    agent.execute("ROLLBACK")
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_database_without_an_agent_is_read(path: Path, agent: sqlite3.Connection) -> None:
    write(agent, "now")
    agent.close()
    assert [file.name for file in path.parent.iterdir()] == [FILE]
    assert read(path) == ["now", "now"]


def test_a_wal_that_is_begun_anew_meanwhile_is_copied_again(
    path: Path, agent: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(agent, "now")
    copy, copied = shutil.copyfile, list[Path]()

    def copy_and_disturb(source: Path, target: Path) -> None:
        copy(source, target)
        copied.append(source)
        if len(copied) in disturbed:
            begin_wal_anew(agent)

    monkeypatch.setattr(shutil, "copyfile", copy_and_disturb)
    disturbed = {1}
    assert read(path) == ["later", "later"]
    assert len(copied) == 4
    disturbed = set(range(100))
    with pytest.raises(OSError, match="try again"):
        read(path)


def test_a_copy_beside_writes_and_checkpoints_has_whole_commits(path: Path, agent: sqlite3.Connection) -> None:
    write(agent, "0")
    is_done = threading.Event()

    def disturb() -> None:
        other = connect(path)
        number = 0
        while not is_done.is_set():
            number += 1
            write(other, str(number) * 300)
            if number % 20 == 0:
                other.execute(f"PRAGMA wal_checkpoint({'PASSIVE' if number % 100 else 'RESTART'})")
        other.close()

    thread = threading.Thread(target=disturb)
    thread.start()
    seen = set()
    try:
        for _ in range(40):
            with suppress(OSError):  # the WAL begins anew very often here
                first, second = read(path)
                assert first == second
                seen.add(first)
    finally:
        is_done.set()
        thread.join()
    assert len(seen) > 1


def test_a_missing_database_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(path)
