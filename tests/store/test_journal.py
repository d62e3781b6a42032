from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.core.clock import Moment
from edge_agent.core.publications import Publication
from edge_agent.store import journal_connection, journal_file
from edge_agent.store.journal import Journal, journal_facts
from edge_agent.store.journal_connection import WAL_SUFFIX
from edge_agent.store.journal_file import FILE
from edge_agent.store.rows import Quarantined
from tests.helpers.support import inbound

AT = Moment("this boot", 5.0, 1.8e9)
REPLY = Publication(topic="r", payload=b'{"id":1}', correlation=b"\xff", content_type="application/json")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / FILE


def reopened(journal: Journal) -> Journal:
    journal.commit()
    return Journal(journal.path)


def rows(journal: Journal) -> list[int]:
    return [row for (row,) in journal._connection.execute("SELECT number FROM requests ORDER BY number")]


def test_a_request_comes_back_as_it_was(path: Path) -> None:
    journal = Journal(path)
    message = inbound(
        "t", b"\x00\xff", response_topic="r", correlation=b"\xfe", content_type="text/plain", expiry_s=9, packet_id=7
    )
    row = journal.accept(message, "triage", AT)
    (left,) = reopened(journal).unanswered(AT)
    assert (left.row, left.task) == (row, "triage")
    assert left.message == replace(message, received_at=AT.monotonic_s)


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_what_is_no_file_is_not_waited_for(path: Path, suffix: str) -> None:
    path.parent.mkdir()
    os.mkfifo(f"{path}{suffix}")
    with pytest.raises(sqlite3.OperationalError, match="is no file"):
        Journal(path)


def test_its_files_are_nobody_else_s_to_read(path: Path) -> None:
    journal = Journal(path)
    journal.accept(inbound("t", "x"), "triage", AT)
    journal.commit()
    assert {file.name: file.stat().st_mode & 0o077 for file in path.parent.glob("*.sqlite*")} == {
        f"{path.name}{suffix}": 0 for suffix in ("", "-wal")
    }


def killed(path: Path, folder: Path) -> Path:
    """The files of a journal whose process was killed now."""
    return Path(shutil.copytree(path.parent, folder / "killed")) / path.name


def _flip(wal: Path, at: int) -> None:
    content = bytearray(wal.read_bytes())
    content[at] ^= 1
    wal.write_bytes(content)


@pytest.mark.expects_warning
@pytest.mark.parametrize(
    ("meddle", "is_told"),
    [
        (lambda _path, _wal: None, False),
        # In the second frame of some dozen, in the header's salt, its checksum, its first byte.
        (lambda _path, wal: _flip(wal, 32 + 1048 + 500), True),
        (lambda _path, wal: _flip(wal, 17), True),
        (lambda _path, wal: _flip(wal, 30), True),
        (lambda _path, wal: _flip(wal, 0), True),
        (lambda path, _wal: os.truncate(path, 0), True),
        # Killed as it wrote the last commit: its frame's header is there, over a page of before.
        (lambda _path, wal: _flip(wal, wal.stat().st_size - 500), False),
        (lambda _path, wal: os.truncate(wal, wal.stat().st_size - 1048), False),
        (lambda _path, wal: os.truncate(wal, wal.stat().st_size - 500), False),
        (lambda _path, wal: os.truncate(wal, 20), True),
        (lambda _path, wal: os.truncate(wal, 0), False),
    ],
)
def test_changes_that_cannot_be_read_are_told(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, meddle: Callable[[Path, Path], None], *, is_told: bool
) -> None:
    first = Journal(path)
    first.accept(inbound("t", "x"), "triage", AT)
    first.commit()
    first.close()  # the tables have it
    journal = Journal(path)
    for _ in range(5):
        journal.accept(inbound("t", "x" * 1500), "triage", AT)
        journal.commit()
    found = killed(path, tmp_path)
    meddle(found, found.with_name(found.name + "-wal"))
    Journal(found)
    assert ("cannot be read" in caplog.text) == is_told


def test_what_another_process_has_is_counted_all_the_same(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edge_agent.store.journal import Journal\n"
        "from tests.store.test_journal import AT\nfrom tests.helpers.support import inbound\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for _ in range(7): journal.accept(inbound('t', 'x'), 'triage', AT)\n"
        "journal.commit(); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        facts = journal_facts(path, 10.0)
        assert (facts.requests, facts.unanswered, facts.fault) == (7, 7, None)
        assert not path.with_name(path.name + "-shm").exists()
        process.communicate()
    assert journal_facts(path, 10.0).requests == 7


def test_files_of_an_older_agent_are_kept_from_others_too(path: Path) -> None:
    Journal(path).close()
    path.chmod(0o644)
    Journal(path)
    assert {file.stat().st_mode & 0o077 for file in path.parent.glob("*.sqlite*")} == {0}


def test_what_is_not_committed_is_not_there_after_a_kill(path: Path) -> None:
    journal = Journal(path)
    journal.accept(inbound("t", "x"), "triage", AT)
    assert list(Journal(path).unanswered(AT)) == []


def test_requests_come_back_in_order_and_later_rows_are_new(path: Path) -> None:
    journal = Journal(path)
    for payload in ("a", "b", "c"):
        journal.accept(inbound("t", payload), "triage", AT)
    journal.drop(2)
    again = reopened(journal)
    assert [left.message.payload for left in again.unanswered(AT)] == [b"a", b"c"]
    assert again.accept(inbound("t", "d"), "triage", AT) == 4


def test_an_answered_request_is_a_reply_until_the_broker_has_it(path: Path) -> None:
    journal = Journal(path)
    row = journal.accept(inbound("t", "x", correlation=b"\xff"), "triage", AT)
    journal.answer(row, "triage", REPLY, None, AT)
    again = reopened(journal)
    assert list(again.unanswered(AT)) == []
    assert list(again.undelivered()) == [(row, REPLY)]
    again.delivered(row)
    assert rows(reopened(again)) == []


@pytest.mark.parametrize("is_delivered_first", [True, False])
def test_an_answer_to_give_again_stays_until_it_is_forgotten_and_delivered(
    path: Path, *, is_delivered_first: bool
) -> None:
    journal = Journal(path)
    row = journal.accept(inbound("t", "x"), "triage", AT)
    journal.answer(row, "triage", REPLY, b"key", AT)
    steps = [journal.delivered, journal.forget] if is_delivered_first else [journal.forget, journal.delivered]
    steps[0](row)
    again = reopened(journal)
    assert [(known.row, known.key, known.reply, known.ended) for known in again.repeatable()] == (
        [(row, b"key", REPLY.payload, AT)] if is_delivered_first else []
    )
    assert [row for row, _ in again.undelivered()] == ([] if is_delivered_first else [row])
    steps[1](row)
    assert rows(journal) == []


def test_nothing_told_is_nothing_to_commit() -> None:
    journal = Journal(None)
    assert not journal.commit()
    journal.drop(1)
    assert journal.commit()
    assert not journal.commit()


def test_another_journal_takes_over_what_is_committed_and_what_is_not(path: Path) -> None:
    journal = Journal(path)
    journal.accept(inbound("t", "a"), "triage", AT)
    journal.commit()
    journal.accept(inbound("t", "b"), "triage", AT)
    other = Journal(None)
    other.take_over(journal)
    assert [left.message.payload for left in other.unanswered(AT)] == [b"a", b"b"]
    assert other.accept(inbound("t", "c"), "triage", AT) == 3


@pytest.mark.expects_warning
def test_a_damaged_file_is_set_aside_and_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    journal = Journal(path)
    assert rows(journal) == []
    assert path.with_name(f"{FILE}.damaged").read_bytes().startswith(b"no database")


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises((OSError, sqlite3.Error)):
        Journal(tmp_path / "file" / FILE)


def test_only_a_reply_that_is_given_again_can_be_recalled(path: Path) -> None:
    journal = Journal(path)
    rows = [journal.accept(inbound("t", "x"), "triage", AT) for _ in range(3)]
    journal.answer(rows[0], "triage", REPLY, b"key", AT)
    journal.answer(rows[1], "triage", REPLY, None, AT)
    assert [journal.recall(row) for row in (*rows, 99)] == [REPLY.payload, None, None, None]


def filled(path: Path, count: int = 60) -> Path:
    """Rows of a process that has ended, in the file itself: every second one answered."""
    journal = Journal(path)
    for number in range(count):
        row = journal.accept(inbound("t", f"{number} " + "x" * 300, packet_id=number + 1), "triage", AT)
        if number % 2:
            journal.answer(row, "triage", REPLY, b"key%d" % row, AT)
    journal.commit()
    journal.close()
    return path


def overwrite(path: Path, first: int, last: int) -> None:
    """Pages of the file with zeros: what a card that fails does."""
    data = bytearray(path.read_bytes())
    data[first * 1024 : last * 1024] = bytes((last - first) * 1024)
    path.write_bytes(data)


@pytest.mark.expects_warning
def test_of_a_file_with_damaged_pages_the_rest_goes_on(path: Path) -> None:
    filled(path)
    overwrite(path, 10, 12)
    journal = Journal(path)
    assert path.with_name(f"{FILE}.damaged").exists()
    assert 0 < len(list(journal.unanswered(AT))) < 30
    row = journal.accept(inbound("t", "new"), "triage", AT)
    assert row in rows(reopened(journal))


@pytest.mark.expects_warning
@pytest.mark.parametrize("found", [b"task TEXT", b"CREATE TABLE requests", b"requestsrequests"])
def test_a_bit_of_the_tables_form_costs_no_request(path: Path, found: bytes) -> None:
    """Of a column's name, or of a table's: SQLite's own message may then be no text."""
    filled(path)
    for bit in (0x80, 0x01):
        data = bytearray(path.read_bytes())
        data[data.index(found) + len(found) - 6] ^= bit
        path.write_bytes(data)
        assert rows(Journal(path)) == list(range(1, 61))


@pytest.mark.expects_warning
@pytest.mark.parametrize(("at", "bit"), [(18, 0x80), (20, 0x80), (31, 0x10), (47, 0x01), (672, 0x01)])
def test_a_bit_of_the_first_page_costs_no_request_and_the_file_is_written_on(path: Path, at: int, bit: int) -> None:
    """Version, bytes left free in each page, count of pages, form of the tables, and where one of them is."""
    data = bytearray(filled(path).read_bytes())
    data[at] ^= bit
    path.write_bytes(data)
    journal = Journal(path)
    journal.accept(inbound("t", "new"), "triage", AT)
    journal.commit()
    journal.close()
    assert rows(Journal(path)) == list(range(1, 62))


@pytest.mark.expects_warning
def test_a_bit_of_a_text_costs_one_request_and_a_page_its_own(path: Path) -> None:
    filled(path)
    overwrite(path, 10, 11)
    data = bytearray(path.read_bytes())
    data[data.index(b"this boot", 12 * 1024) + 2] ^= 0x80
    path.write_bytes(data)
    journal = Journal(path)
    assert 50 < len(rows(journal)) < 59
    assert path.with_name(f"{FILE}.damaged").read_bytes() == data


@pytest.mark.expects_warning
def test_a_file_that_the_disk_does_not_give_is_no_damaged_one_until_it_stays_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwrite(filled(path), 10, 12)
    damaged = path.read_bytes()

    def fail(_path: Path) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr(journal_file, "_read_through", fail)
    with pytest.raises(OSError, match="input/output error"):
        Journal(path)
    assert [one.name for one in path.parent.iterdir()] == [FILE]
    assert path.read_bytes() == damaged
    assert 30 < len(rows(Journal(path, is_patient=False))) < 60


@pytest.mark.expects_warning
@pytest.mark.parametrize("most", range(1, 5))
def test_a_salvage_that_is_cut_off_is_done_at_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """After each of the names that it changes."""
    filled(path)
    overwrite(path, 10, 12)
    damaged = path.read_bytes()
    renamed: list[Path] = []

    def killed(self: Path, target: Path) -> None:
        if not renamed:  # SQLite leaves it where it cannot bring it to the tables
            path.with_name(f"{FILE}{WAL_SUFFIX}").write_bytes(b"changes")
        renamed.append(target)
        os.replace(self, target)  # noqa: PTH105
        if len(renamed) == most:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(InterruptedError):
            Journal(path)
    path.with_name(f"{FILE}.draft-wal").write_bytes(b"of an earlier try")
    journal = Journal(path)
    assert 30 < len(rows(journal)) < 60
    journal.close()
    kept = {one.name: one.read_bytes() for one in path.parent.iterdir() if one != path}
    assert kept == {f"{FILE}.damaged": damaged, f"{FILE}.damaged{WAL_SUFFIX}": b"changes"}


def test_of_what_was_put_aside_the_first_two_stay_and_the_latest(tmp_path: Path) -> None:
    for number in range(5):
        for suffix in ("", WAL_SUFFIX) if number in {1, 3} else ("",):
            (tmp_path / f"{FILE}{suffix}").write_text(str(number), "utf-8")
        (tmp_path / f"{FILE}.whole").write_text("whole", "utf-8")
        journal_file._end_salvage(tmp_path / FILE)
    kept = {one.name.removeprefix(FILE): one.read_text("utf-8") for one in tmp_path.iterdir()}
    assert kept == {"": "whole", ".damaged": "0", ".damaged-2": "1", f".damaged-2{WAL_SUFFIX}": "1", ".damaged-3": "4"}


@pytest.mark.expects_warning
def test_a_salvage_that_does_not_reach_the_file_itself_moves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that fills up: SQLite tells nobody that it could not empty its file of changes."""
    overwrite(filled(path), 10, 12)
    damaged, readers, whole = path.read_bytes(), [], journal_file.copied

    def copied(old: sqlite3.Connection) -> Iterator[tuple[str, tuple[object, ...]]]:
        reader = sqlite3.connect(path.with_name(f"{FILE}.draft"), isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM requests").fetchall()
        readers.append(reader)
        return whole(old)

    with monkeypatch.context() as patch:
        patch.setattr(journal_connection, "LOCKED_MS", 0)
        patch.setattr(journal_file, "copied", copied)
        with pytest.raises(sqlite3.OperationalError):
            Journal(path)
    assert path.read_bytes() == damaged
    for reader in readers:
        reader.close()
    assert 30 < len(rows(Journal(path))) < 60


def test_what_is_quarantined_while_the_clock_is_unset_stays_so(path: Path) -> None:
    journal = Journal(path)
    held = [Quarantined("ab", "t", None), Quarantined("cd", "t", "2026-01-01T00:00:00.000Z")]
    for one in held:
        journal.hold(one)
    assert list(reopened(journal).held()) == held


@pytest.mark.expects_warning
def test_whatever_bits_are_damaged_it_opens_and_tells_what_it_can(path: Path) -> None:
    data, dice = filled(path).read_bytes(), random.Random(7)
    for _ in range(60):
        for one in path.parent.iterdir():
            one.unlink()
        damaged = bytearray(data)
        for _ in range(dice.choice((1, 10, 300))):
            damaged[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        journal = Journal(path)
        for told in (journal.held(), journal.unanswered(AT), journal.undelivered(), journal.repeatable()):
            list(told)
        Journal(None).take_over(journal)
        journal.close()


@pytest.mark.expects_warning
def test_changes_of_a_damaged_file_are_not_made_to_the_new_one(path: Path) -> None:
    journal = Journal(filled(path))
    journal.accept(inbound("t", "in the file of changes"), "triage", AT)
    journal.commit()
    changes = path.with_name(path.name + WAL_SUFFIX)
    kept = changes.read_bytes()
    journal.close()
    changes.write_bytes(kept)
    path.write_bytes(b"no database" * 1000)
    assert rows(Journal(path)) == []


@pytest.mark.expects_warning
@pytest.mark.parametrize(
    "value",
    ["topic = NULL", "payload = NULL", "payload = 'text'", "topic = CAST(x'ff' AS TEXT)", "wall_s = 'soon'",
     "monotonic_s = x'00'", "packet_id = 'x'", "boot = x'01'"],
)  # fmt: skip
def test_a_row_with_a_value_that_was_never_written_is_dropped_alone(path: Path, value: str) -> None:
    filled(path, 3)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE requests SET {value} WHERE number = 1")
    connection.close()
    journal = Journal(path)
    assert [left.row for left in journal.unanswered(AT)] == [3]
    assert rows(reopened(journal)) == [2, 3]


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_a_damaged_number_leaves_free_ones(path: Path, number: int) -> None:
    filled(path, 3)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE requests SET number = ? WHERE number = 1", (number,))
    connection.close()
    journal = Journal(path)
    assert journal.accept(inbound("t", "x"), "triage", AT) == 4
    assert rows(reopened(journal)) == sorted([number, 2, 3, 4])


@pytest.mark.expects_warning
@pytest.mark.parametrize("value", ["reply = 'text'", "reply_topic = NULL", "reply_topic = CAST(x'ff' AS TEXT)"])
def test_a_reply_with_such_a_value_is_not_sent(path: Path, value: str) -> None:
    filled(path, 4)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE requests SET {value} WHERE number = 2")
    connection.close()
    assert [row for row, _ in Journal(path).undelivered()] == [4]


def test_a_topic_may_have_any_character_that_is_one(path: Path) -> None:
    journal = Journal(path)
    journal.accept(inbound("halle/\u3000\u00a0\U0001f600", "x"), "triage", AT)
    assert [left.message.topic for left in reopened(journal).unanswered(AT)] == ["halle/\u3000\u00a0\U0001f600"]


def test_a_reader_holds_a_checkpoint_up_and_not_the_writer(path: Path) -> None:
    journal = Journal(path)
    journal.accept(inbound("t", "x"), "triage", AT)
    journal.commit()
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM requests").fetchall()
    journal.accept(inbound("t", "y"), "triage", AT)
    journal.commit()
    began = time.monotonic()
    assert not journal.checkpoint()
    assert time.monotonic() - began < 0.5
    reader.close()
    assert journal.checkpoint()
