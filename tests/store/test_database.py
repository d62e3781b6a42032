import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from edge_agent.store.database import FILE
from edge_agent.store.store import Store
from tests.store.test_store import AT, accept, opened, payloads

# The tables of release 0.1.0.
FIRST_SCHEMA = """
CREATE TABLE requests (
  number INTEGER PRIMARY KEY, task TEXT NOT NULL,
  topic TEXT, payload BLOB, response_topic TEXT, correlation BLOB, content_type TEXT, expiry_s INTEGER,
  packet_id INTEGER, boot TEXT NOT NULL, monotonic_s REAL NOT NULL, wall_s REAL NOT NULL,
  reply_topic TEXT, reply BLOB, key BLOB, is_delivered INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE quarantine (fingerprint TEXT PRIMARY KEY, task TEXT NOT NULL, since TEXT);
INSERT INTO requests (number, task, topic, payload, packet_id, boot, monotonic_s, wall_s)
  VALUES (7, 'triage', 't', x'61', 3, 'this boot', 5.0, 1.8e9);
INSERT INTO requests (number, task, boot, monotonic_s, wall_s, reply_topic, reply, key)
  VALUES (8, 'triage', 'this boot', 5.0, 1.8e9, 'r', x'7b7d', x'01');
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / FILE


def written(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def names(path: Path) -> set[str]:
    return {file.name.removeprefix(FILE) for file in path.parent.glob(f"{FILE}*")}


def test_a_database_of_the_first_release_is_taken_over(path: Path) -> None:
    written(path, FIRST_SCHEMA)
    for _ in range(2):
        store = Store(path, lambda _: None)
        assert [row for row, _ in store.start()] == [8]
        assert [answer.key for answer in store.repeatable()] == [b"\x01"]
        assert payloads(store) == [b"a"]
        assert accept(store) == 9
        store.close()
    assert names(path) == {""}


def test_answers_that_an_earlier_version_kept_are_taken_over(path: Path) -> None:
    opened(path).close()
    for column in ("rare_fields", "machine", "marked_by", "is_refused"):
        written(path, f"ALTER TABLE answers DROP COLUMN {column}")
    opened(path).close()
    assert names(path) == {""}


@pytest.mark.expects_warning
def test_a_database_of_another_schema_is_kept_not_called_damaged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(path, "CREATE TABLE requests (number INTEGER PRIMARY KEY, something TEXT)")
    store = opened(path)
    assert accept(store) == 1
    assert names(path) >= {"", ".other-schema"}
    assert str(store.set_aside) == "of another release: its tables have other columns"
    assert "damaged" not in caplog.text


@pytest.mark.expects_warning
@pytest.mark.parametrize("what", ["no database", "zeros in the middle", "cut", "a text for bytes"])
def test_a_damaged_database_is_kept_aside_and_a_fresh_one_begins(path: Path, what: str) -> None:
    store = opened(path)
    for _ in range(60):
        accept(store, "x" * 300)
    store.commit()
    store.close()
    data = path.read_bytes()
    damaged = {
        "no database": b"no database at all" * 100,
        "zeros in the middle": data[: 10 * 1024] + bytes(2048) + data[12 * 1024 :],
        "cut": data[:5000],
        "a text for bytes": data.replace(b"\x84\x64", b"\x84\x65", 1),  # the type of 300 bytes, of 300 characters
    }[what]
    path.write_bytes(damaged)
    again = opened(path)
    assert payloads(again) == []
    assert again.fault is None
    assert str(again.set_aside).startswith("damaged")
    assert path.with_name(f"{FILE}.damaged").read_bytes() == damaged
    accept(again)
    again.commit()
    assert payloads(opened(path)) == [b"x"]


def test_text_that_is_damaged_is_still_text(path: Path) -> None:
    store = opened(path)
    accept(store)
    store.commit()
    store._connection.execute("UPDATE requests SET task = CAST(x'74ff' AS TEXT)")
    assert [stored.task for stored in store.unanswered(AT)] == ["t\N{REPLACEMENT CHARACTER}"]


@pytest.mark.expects_warning
def test_a_database_that_cannot_be_opened_is_only_a_fault(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.mkdir(parents=True)
    assert "unable to open" in str(opened(path).fault)
    assert "Traceback" not in capsys.readouterr().err


def test_its_files_belong_to_the_account_alone(path: Path) -> None:
    store = opened(path)
    accept(store)
    store.commit()
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}
    assert names(path) == {"", "-wal"}


@pytest.mark.expects_warning
def test_a_database_that_another_process_reads_is_a_fault_and_not_waited_for(path: Path) -> None:
    opened(path).close()
    look = (
        "import sqlite3, sys; reader = sqlite3.connect(sys.argv[1])\n"
        "reader.execute('SELECT * FROM requests').fetchall(); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", look, str(path)], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert "locked" in str(opened(path).fault)
        process.communicate()
