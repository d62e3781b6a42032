"""What reaches the disk, the broker and the caller, in which order; and what is left for the next process."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.core.clock import moment
from edge_agent.core.inbound import Message
from edge_agent.core.protocol import Run
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.requests import duplicates
from edge_agent.requests.delivery import CONFIRMED_WITHIN_S, MOST_TRIES, POSTPONED_S, Delivery
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.parse import Parser
from edge_agent.requests.replies import FORGET_EVERY_S
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import load_tasks
from edge_agent.store import journal, journal_file, journal_sync, record
from edge_agent.store.journal import Journal
from edge_agent.store.journal_connection import WAL_SUFFIX
from edge_agent.store.journal_file import FILE, open_file
from edge_agent.store.journal_sync import JournalSync, Synced
from edge_agent.store.record import TRY_AGAIN_S
from edge_agent.store.rows import Quarantined, StoredRequest
from tests.helpers.processes import wait_until
from tests.helpers.support import (
    BASE,
    MODEL,
    TASKS,
    Outlet,
    code_of,
    config,
    delivery,
    finished,
    inbound,
    ready,
    received,
)

REQUEST = f"{BASE}/infer/generate/request"


class Board:
    """An agent's part that knows of requests: what a process is, as far as they are concerned."""

    def __init__(self, folder: Path | None, text: str = "") -> None:
        self.outlet = Outlet()
        self.synced: list[Synced] = []
        self.delivery = delivery(self.outlet, folder, self.synced.append)
        self.delivery.start()
        settings = config(text + TASKS)
        self.commands: list[object] = []
        self.dispatcher = Dispatcher(settings, load_tasks(settings), self.delivery, self.commands.append)
        self.dispatcher.worker_ready(MODEL, ready(max_active=1), 0.0)
        self.dispatcher.recover(moment(time.monotonic()))

    def hear(self, payload: str, *, task: str = "generate", topic: str | None = None, **fields: object) -> Message:
        message = inbound(topic or f"{BASE}/infer/{task}/request", payload, at=time.monotonic(), **fields)  # type: ignore[arg-type]
        self.dispatcher.receive(message, time.monotonic())
        self.delivery.received(received(message, self.outlet))
        self.flush()
        return message

    def answer(self, number: int) -> None:
        self.dispatcher.finish(finished(number), time.monotonic())
        self.flush()

    def flush(self) -> None:
        self.delivery.flush(time.monotonic())

    def confirm(self, number: int) -> None:
        """The broker has that reply, and a while goes by."""
        self.learn(number, PublishResult.CONFIRMED)
        self.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)

    def learn(self, number: int, result: PublishResult) -> None:
        """What became of that reply at the broker."""
        self.outlet.results = [(number, result)]
        self.flush()

    def hear_of_disk(self) -> None:
        wait_until(lambda: self.synced, "the journal is on the disk", 5.0)
        while self.synced:
            self.delivery.synced(self.synced.pop(0))

    @property
    def replies(self) -> list[dict[str, object]]:
        return [json.loads(publication.payload) for publication in self.outlet.sent]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def left_for_the_next(folder: Path) -> list[StoredRequest]:
    """Requests that the next process is to answer."""
    return list(Journal(folder / FILE).unanswered(moment(time.monotonic())))


def envelope(name: str) -> str:
    return json.dumps({"id": name, "input": f"text of {name}"})


def test_a_request_is_acknowledged_when_it_is_on_the_disk_and_not_before(folder: Path) -> None:
    board = Board(folder)
    messages = [board.hear(envelope(name)) for name in "ab"]
    assert board.outlet.acknowledged == []
    board.hear_of_disk()
    if len(board.outlet.acknowledged) == 1:  # they came in two parts
        board.hear_of_disk()
    assert board.outlet.acknowledged == messages


def test_in_memory_it_is_acknowledged_at_once() -> None:
    board = Board(None)
    message = board.hear(envelope("a"))
    assert board.outlet.acknowledged == [message]


def test_an_unanswered_request_is_run_by_the_next_process_with_its_first_arrival(folder: Path) -> None:
    Board(folder).hear(envelope("a"))
    time.sleep(0.05)

    board = Board(folder)
    board.dispatcher.fill(time.monotonic())
    board.answer(1)

    (reply,) = board.replies
    assert (reply["id"], reply["status"], reply["repeat"]) == ("a", "ok", False)
    timing = reply["timing"]
    assert isinstance(timing, dict)
    assert timing["total_ms"] >= 50


def test_pieces_of_an_answer_are_not_sent_by_two_processes(folder: Path) -> None:
    boards = [Board(folder), Board(folder)]
    boards[0].hear(json.dumps({"input": "x", "stream": True}))
    boards.append(Board(folder))
    streamed = [[one.stream for one in board.commands if isinstance(one, Run)] for board in boards]
    assert streamed == [[True], [], [False]]


def test_a_deadline_that_passed_while_there_was_no_process_is_told(folder: Path) -> None:
    Board(folder).hear(json.dumps({"id": "a", "input": "x", "deadline_ms": 20}))
    time.sleep(0.05)
    board = Board(folder)
    board.flush()
    assert [(reply["id"], reply["status"]) for reply in board.replies] == [("a", "expired")]


def test_a_reply_that_the_broker_did_not_confirm_is_sent_again_byte_for_byte(folder: Path) -> None:
    first = Board(folder)
    first.hear(envelope("a"))
    first.answer(1)

    again = Board(folder)
    again.flush()
    assert again.outlet.sent == first.outlet.sent
    again.confirm(1)

    third = Board(folder)
    third.flush()
    assert third.outlet.sent == []


def test_a_recorded_answer_is_repeated_by_the_next_process_and_not_found_anew(folder: Path) -> None:
    first = Board(folder)
    first.hear(envelope("a"), packet_id=3)
    first.answer(1)
    first.confirm(1)

    again = Board(folder)
    again.hear(envelope("a"), packet_id=3, duplicate=True)
    assert again.commands == []
    (reply,) = again.replies
    assert (reply["id"], reply["output"], reply["repeat"]) == ("a", "fine", True)


def test_what_another_configuration_refused_is_asked_anew(folder: Path) -> None:
    pump = '[tasks.pump]\nkind = "generate"\n'
    replies = []
    for text in ("", "", pump, pump):
        board = Board(folder, text)
        board.hear(envelope("a"), task="pump")
        if board.commands:
            board.answer(1)
        (reply,) = board.replies
        replies.append((reply["status"], reply["repeat"]))
        board.confirm(1)
    assert replies == [("invalid", False), ("invalid", True), ("ok", False), ("ok", True)]
    # A configuration that comes back does not bring a refusal back in place of an answer.
    Board(folder, "")
    for text in (pump, "", pump):
        board = Board(folder, text)
        board.hear(envelope("a"), task="pump")
        ((status, repeat),) = [(reply["status"], reply["repeat"]) for reply in board.replies]
        assert (status, repeat) == (("ok", True) if text else (status, repeat))
        assert board.commands == []
        board.confirm(1)


def test_answers_are_repeated_for_as_long_by_the_next_process(folder: Path) -> None:
    """Also where one that came first ended last."""
    text = "[queue]\ndedup_window_s = 0.5\n"
    first = Board(folder, text)
    first.dispatcher.worker_ready(MODEL, ready(max_active=2), 0.0)
    for name in ("slow", "quick"):
        first.hear(envelope(name))
    first.dispatcher.fill(time.monotonic())
    first.answer(2)
    first.confirm(1)
    time.sleep(0.6)
    first.answer(1)
    first.confirm(2)
    again = Board(folder, text)
    again.hear(envelope("quick"))
    assert len(again.commands) == 1
    again.hear(envelope("slow"))
    assert [(reply["id"], reply["repeat"]) for reply in again.replies] == [("slow", True)]


def test_a_reading_of_a_task_that_is_gone_is_told_so(folder: Path) -> None:
    pump = '[tasks.pump]\nkind = "generate"\nsubscribe = ["plant/+/x"]\npublish = "plant/{1}/y"\n'
    Board(folder, pump).hear("hums", topic="plant/7/x")
    for text in ("", pump.replace("plant/+/x", "plant/+/z")):
        board = Board(shutil.copytree(folder, folder.with_name(f"copy{len(text)}")), text)
        board.flush()
        ((topic, reply),) = [(sent.topic, json.loads(sent.payload)) for sent in board.outlet.sent]
        assert topic == f"{BASE}/infer/pump/response"
        assert (reply["status"], code_of(reply)) == ("invalid", "unknown_task")
        assert "does not listen to" in reply["error"]["message"]


def test_a_redelivery_of_what_the_next_process_runs_is_one_request(folder: Path) -> None:
    Board(folder).hear("a bare reading", packet_id=3)
    board = Board(folder)
    board.hear("a bare reading", packet_id=3, duplicate=True)
    board.answer(1)
    assert len(board.replies) == 1
    assert left_for_the_next(folder) == []


def test_everyone_who_asked_the_same_is_answered_by_the_next_process(folder: Path) -> None:
    first = Board(folder)
    first.hear(envelope("a"), packet_id=1)
    first.hear(envelope("a"), packet_id=2)
    board = Board(folder)
    board.dispatcher.fill(time.monotonic())
    board.answer(1)
    assert [reply["repeat"] for reply in board.replies] == [False, True]


def test_a_refusal_outlives_the_process_too(folder: Path) -> None:
    first = Board(folder)
    first.hear('{"id": "a", "input": 5}')
    again = Board(folder)
    again.flush()
    assert again.outlet.sent == first.outlet.sent
    assert again.replies[0]["status"] == "invalid"


def test_what_is_too_long_is_answered_and_acknowledged_without_a_byte_of_it_on_the_disk(folder: Path) -> None:
    board = Board(folder)
    message = board.hear("never written " * 200_000, correlation=b"a")  # more than fits the cache of a transaction
    wait_until(lambda: board.synced, "the journal is on the disk", 5.0)
    board.hear_of_disk()
    (reply,) = board.replies
    assert isinstance(reply["error"], dict)
    assert (reply["status"], reply["error"]["code"]) == ("invalid", "too_long")
    assert reply["error"]["message"] == "payload: should have at most 65536 bytes (got 2800000)"
    assert board.outlet.acknowledged == [message]
    assert not any(b"never written" in path.read_bytes() for path in folder.iterdir())
    # Its answer is on the disk as any other's: it is told again, by the next process too.
    again = Board(folder)
    again.hear("never written " * 200_000, correlation=b"a")
    assert again.replies[-1] | {"ts": 0, "repeat": False} == reply | {"ts": 0}
    assert again.replies[-1]["repeat"] is True


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_was_turned_away_is_told_so_again_when_the_broker_brings_it_again_and_not_run(
    folder: Path, *, is_killed: bool
) -> None:
    board = Board(folder)
    board.dispatcher.start_drain()
    board.hear("a reading", packet_id=4)
    if is_killed:
        board = Board(folder)
    board.dispatcher.end_drain()
    board.hear("a reading", packet_id=4, duplicate=True)
    assert board.commands == []
    assert [(reply["status"], reply["repeat"]) for reply in board.replies] == [("busy", False), ("busy", True)]


class Killed(BaseException):
    """In the midst of a start."""


@pytest.mark.expects_warning
@pytest.mark.parametrize("is_answer_deadly", [False, True])
def test_what_ends_each_process_that_takes_it_over_is_run_by_no_further_one_and_the_rest_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, is_answer_deadly: bool
) -> None:
    first = Board(folder)
    for name in ("a", "deadly", "b"):
        first.hear(envelope(name))
    parse = Parser.parse

    def kill(parser: Parser, message: Message) -> list[Request]:
        if b"deadly" in message.payload:
            raise Killed
        return parse(parser, message)

    with monkeypatch.context() as patch:
        patch.setattr(Parser, "parse", kill)
        patch.setattr(Delivery, "taken_over", lambda _: None)  # the dead do nothing at last
        for _ in range(4 if is_answer_deadly else 3):  # first with all the others
            with pytest.raises(Killed):
                Board(folder)
    board = Board(folder)
    board.flush()
    told = [(reply["id"], reply["status"], code_of(reply)) for reply in board.replies]
    assert told == ([] if is_answer_deadly else [("deadly", "failed", "engine_lost")])
    assert [json.loads(left.message.payload)["id"] for left in left_for_the_next(folder)] == ["a", "b"]
    assert board.delivery._record._journal.mark == 0


@pytest.mark.expects_warning
def test_what_is_quarantined_stays_so_in_the_next_process(folder: Path) -> None:
    board = Board(folder)
    board.hear(envelope("a"))
    for _ in range(2):
        board.dispatcher.fill(time.monotonic())
        board.dispatcher.worker_lost("killed", time.monotonic())
        board.dispatcher.worker_ready(MODEL, ready(max_active=1), 0.0)
    board.flush()
    board = Board(folder)
    (held,) = board.dispatcher.snapshot(0.0).quarantined
    board.dispatcher.release_quarantined(held.fingerprint)
    board.flush()
    assert Board(folder).dispatcher.snapshot(0.0).quarantined == ()


@pytest.mark.expects_warning
def test_a_reply_that_no_size_makes_sendable_leaves_no_request_for_the_next_process(folder: Path) -> None:
    board = Board(folder)
    board.outlet.largest = 10
    board.hear(envelope("a"))
    board.answer(1)
    assert board.replies == []
    assert left_for_the_next(folder) == []


def test_nothing_of_a_request_at_qos_0_is_kept(folder: Path) -> None:
    board = Board(folder)
    message = inbound(REQUEST, "x", at=time.monotonic())
    object.__setattr__(message, "qos", 0)
    board.dispatcher.receive(message, time.monotonic())
    board.flush()
    assert left_for_the_next(folder) == []
    board.answer(1)
    assert len(board.replies) == 1


def test_what_is_done_with_leaves_no_row(folder: Path) -> None:
    board = Board(folder, "[queue]\ndedup_window_s = 0\n")
    for number in range(1, 20):
        board.hear(envelope(str(number)))
        board.answer(number)
        board.learn(number, PublishResult.CONFIRMED)
    board.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)
    journal = Journal(folder / FILE)
    (count,) = journal._connection.execute("SELECT count(*) FROM requests").fetchone()
    assert count == 0


def test_what_nobody_repeats_any_more_leaves_no_row_although_nobody_asks(folder: Path) -> None:
    board = Board(folder, "[queue]\ndedup_window_s = 20\n")
    began = time.monotonic()
    board.dispatcher.expire(began)
    board.hear(envelope("a"))
    board.answer(1)
    board.confirm(1)
    for later_s, rows in ((15.0, 1), (21.0 + FORGET_EVERY_S, 0)):
        board.dispatcher.expire(began + later_s)
        board.flush()
        assert len(Journal(folder / FILE).rows()) == rows


def test_a_writer_that_never_rests_does_not_let_the_file_of_changes_grow_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "WAL_BYTES", 1 << 16)
    monkeypatch.setattr(journal_sync, "WAL_BYTES", 1 << 16)
    monkeypatch.setattr(journal_sync, "MOST_WAL_BYTES", 1 << 19)
    # As it is beside such a writer: it is never done.
    monkeypatch.setattr(JournalSync, "_checkpoint", lambda _: None)
    board = Board(folder)
    asked, most = 400, 0
    for number in range(1, asked + 1):
        board.hear(f"{number} {'x' * 20_000}")
        board.answer(number)
        most = max(most, (folder / f"{FILE}{WAL_SUFFIX}").stat().st_size)
    board.delivery.stop(5.0)
    assert most < asked * 20_000
    assert board.delivery.fault is None


def test_what_is_remembered_is_bounded_by_its_bytes_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is that a caller makes long: here Correlation Data, of which the id is made, too."""
    monkeypatch.setattr(duplicates, "MAX_BYTES", 1 << 20)

    def recorded(board: Board) -> int:
        board.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)
        asked = "SELECT sum(length(reply) + length(correlation)) FROM requests"
        return int(board.delivery._record._journal._connection.execute(asked).fetchone()[0])

    board = Board(folder)
    for number in range(60):
        board.hear("", correlation=b"\xff" * 20_000 + b"%d" % number)
        board.outlet.results = [(number + 1, PublishResult.CONFIRMED)]
    assert 1 << 19 < recorded(board) < 1 << 20
    monkeypatch.setattr(duplicates, "MAX_BYTES", 1 << 19)
    assert 1 << 18 < recorded(Board(folder)) < 1 << 19


def test_that_the_broker_has_a_reply_is_written_with_what_comes_next_or_soon_after(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[bool] = []
    commit = Journal.commit

    def counted(journal: Journal) -> bool:
        commits.append(commit(journal))
        return commits[-1]

    monkeypatch.setattr(Journal, "commit", counted)
    board = Board(folder, "[queue]\ndedup_window_s = 0\n")
    board.hear(envelope("a"))
    board.answer(1)
    board.learn(1, PublishResult.CONFIRMED)
    assert sum(commits) == 2
    board.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)
    assert sum(commits) == 3


def test_a_recorded_answer_is_given_again_from_the_record(folder: Path) -> None:
    board = Board(folder)
    board.hear(envelope("a"))
    board.answer(1)
    board.delivery._record._journal._connection.execute(
        "UPDATE requests SET reply = CAST(replace(reply, 'fine', 'FINE') AS BLOB)"
    )
    board.hear(envelope("a"))
    assert [(reply["output"], reply["repeat"]) for reply in board.replies] == [("fine", False), ("FINE", True)]


class Failing:
    """A journal whose disk is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = True
        commit = Journal.commit

        def fail(journal: Journal) -> bool:
            if journal.path is not None and self.is_full and journal._told:
                raise sqlite3.OperationalError("database or disk is full")
            return commit(journal)

        monkeypatch.setattr(Journal, "commit", fail)


@pytest.mark.expects_warning
def test_a_disk_that_cannot_be_read_either_makes_no_two_requests_one(folder: Path) -> None:
    board = Board(folder)
    for name in "abc":
        board.hear(envelope(name))

    class Gone(sqlite3.Connection):
        def execute(self, *_given: object) -> sqlite3.Cursor:
            raise sqlite3.OperationalError("disk I/O error")

    board.delivery._record._journal._connection = Gone(":memory:")
    for name in "de":
        board.hear(envelope(name))
    for number in range(1, 6):
        board.answer(number)
    for name in "abcde":
        board.hear(envelope(name))
    told = [reply["id"] for reply in board.replies if reply["repeat"]]
    assert told == list("abcde")


class ReadFault:
    """A journal whose requests cannot be read: as it fails, nothing of them is taken to memory."""

    def __init__(self, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        self._board = board
        with monkeypatch.context() as patch:
            patch.setattr(journal, "copied", self._fail)
            board.delivery._record._fail("disk I/O error")

    def _fail(self, *_given: object) -> Iterator[Any]:
        raise sqlite3.OperationalError("disk I/O error")

    def end(self) -> None:
        self._board.delivery.flush(time.monotonic() + TRY_AGAIN_S + 1)
        assert self._board.delivery.fault is None


@pytest.mark.expects_warning
def test_what_could_not_be_read_for_a_while_is_on_record_again_with_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is still owed: a kill after it loses nothing."""
    board = Board(folder)
    for name in "abc":
        board.hear(envelope(name))
    disk = ReadFault(board, monkeypatch)
    board.answer(1)
    board.confirm(1)
    board.hear(envelope("d"))
    disk.end()
    assert [json.loads(left.message.payload)["id"] for left in left_for_the_next(folder)] == ["b", "c", "d"]


@pytest.mark.expects_warning
def test_answers_that_could_not_be_read_for_a_while_are_known_again_with_the_disk_and_as_they_are_by_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(folder)
    for number, name in enumerate(("confirmed", "confirmed late", "asked again", "unconfirmed", "refused"), 1):
        board.hear(envelope(name) if name != "refused" else json.dumps({"id": name, "input": 5}))
        board.answer(number)
    board.confirm(1)
    board.confirm(3)
    disk = ReadFault(board, monkeypatch)
    board.confirm(2)
    board.hear(envelope("asked again"))
    board.answer(5)
    board.dispatcher.reconfigure(config(TASKS), load_tasks(config(TASKS)))  # what was refused may be let in now
    board.confirm(5)
    disk.end()

    again = Board(folder)
    again.flush()
    assert [reply["id"] for reply in again.replies] == ["unconfirmed", "asked again"]
    for name in ("confirmed", "confirmed late", "asked again", "unconfirmed"):
        again.hear(envelope(name))
    assert again.commands == []
    journal = Journal(folder / FILE)
    (count,) = journal._connection.execute("SELECT count(*) FROM requests WHERE key IS NOT NULL").fetchone()
    assert count == 4


@pytest.mark.expects_warning
def test_with_a_full_disk_requests_are_answered_acknowledged_and_the_fault_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(folder)
    board.hear(envelope("a"))
    disk = Failing(monkeypatch)

    board.answer(1)
    message = board.hear(envelope("b"))

    assert board.delivery.fault == "database or disk is full"
    assert [reply["id"] for reply in board.replies] == ["a"]
    assert board.outlet.acknowledged[-1] == message

    disk.is_full = False
    board.delivery.flush(time.monotonic() + TRY_AGAIN_S + 1)
    assert board.delivery.fault is None
    # Only what is not done with is back on the disk.
    assert [left.row for left in left_for_the_next(folder)] == [2]


@pytest.mark.expects_warning
def test_a_disk_that_stays_away_makes_nothing_grow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept in memory has the bounds of what is kept on the disk; and each try to return leaves nothing."""
    monkeypatch.setattr(duplicates, "MAX_ANSWERS", 20)
    monkeypatch.setattr(record, "TRY_AGAIN_S", 0.0)
    board = Board(folder)
    Failing(monkeypatch)
    threads = threading.active_count()

    def held() -> tuple[int, ...]:
        own = board.delivery._record
        assert own._journal.path is None
        (pages,) = own._journal._connection.execute("PRAGMA page_count").fetchone()
        sets = (own._owed, own._undelivered, own._repeated, board.delivery._sent)
        return (pages, len(own._journal.rows()), *map(len, sets), len(board.delivery._unacknowledged))

    seen = []
    for number in range(1, 91):
        board.hear(json.dumps({"id": f"{number:3}", "input": "x" * 2000}))
        board.answer(number)
        board.outlet.results = [(number, PublishResult.CONFIRMED)]
        seen.append(held())
    assert _most(seen[:30]) == _most(seen)
    assert threading.active_count() < threads + 20


def _most(rows: list[tuple[int, ...]]) -> list[int]:
    return [max(column) for column in zip(*rows, strict=True)]


@pytest.mark.expects_warning
def test_a_request_that_could_not_be_written_is_one_request_all_the_same(folder: Path) -> None:
    board = Board(folder)
    other = sqlite3.connect(folder / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    board.hear(envelope("one"), packet_id=7)
    other.close()
    assert board.delivery.fault is not None
    board.answer(1)
    board.confirm(1)
    board.delivery.flush(time.monotonic() + TRY_AGAIN_S + 1)
    assert board.delivery.fault is None
    board.delivery.close()
    assert list(Journal(folder / FILE).unanswered(moment(time.monotonic()))) == []


@pytest.mark.expects_warning
def test_what_is_damaged_while_it_is_used_ends_nothing(folder: Path) -> None:
    board = Board(folder)
    for number in range(40):
        board.hear(json.dumps({"id": number, "input": "x" * 20_000}), packet_id=number + 1)
    # More than SQLite keeps of it in memory, and all in the file itself.
    assert board.delivery._record._journal.checkpoint()
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:2048] + b"\xff" * (path.stat().st_size - 2048))
    for number in range(1, 41):
        board.answer(number)
    assert sorted(str(reply["id"]) for reply in board.replies) == sorted(str(number) for number in range(40))
    assert "malformed" in str(board.delivery.fault)
    # Nor does it keep what comes from the disk for ever: the damaged file is put aside.
    board.delivery.flush(time.monotonic() + TRY_AGAIN_S + 1)
    assert board.delivery.fault is None
    assert path.with_name(f"{FILE}.damaged").exists()
    board.hear(envelope("later"), packet_id=50)
    board.delivery.stop(1.0)
    board.delivery.close()
    again = Board(folder)
    again.dispatcher.fill(time.monotonic())
    again.answer(1)
    assert again.replies[-1]["id"] == "later"


@pytest.mark.expects_warning
@pytest.mark.parametrize("reply", [b"{}", b"no JSON", b'{"status":"of a newer version"}'])
def test_an_answer_on_record_that_is_none_keeps_no_process_from_starting(folder: Path, reply: bytes) -> None:
    board = Board(folder)
    board.hear(envelope("one"), packet_id=7)
    board.answer(1)
    board.confirm(1)
    board.delivery.close()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("UPDATE requests SET reply = ?", (reply,))
    connection.close()
    again = Board(folder)
    again.hear(envelope("one"), packet_id=8)
    again.answer(1)
    assert (again.replies[-1]["id"], again.replies[-1]["status"]) == ("one", "ok")


@pytest.mark.expects_warning
def test_a_journal_that_cannot_be_opened_keeps_nobody_from_an_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    board = Board(tmp_path / "file")
    board.hear(envelope("a"))
    board.answer(1)
    assert len(board.replies) == 1
    assert board.delivery.fault is not None


@pytest.mark.expects_warning
def test_a_record_that_cannot_be_opened_at_the_start_is_taken_over_when_it_can(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Board(folder, "[queue]\ncapacity = 9\n")
    for name in ("answered", "asked", "asked again"):
        first.hear(envelope(name))
    first.answer(1)
    first.delivery.hold(Quarantined("ab" * 8, "generate", None))
    first.flush()

    def is_full(_path: Path | None) -> sqlite3.Connection:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "open_file", lambda path, **_: is_full(path) if path else open_file(path))
        board = Board(folder)
    assert str(board.delivery.fault) == "disk I/O error"
    board.hear(envelope("asked again"))
    board.hear(envelope("new"))
    board.hear(envelope("answered"))
    assert board.replies == []

    later = time.monotonic() + TRY_AGAIN_S + 1
    board.delivery.flush(later)
    assert (board.delivery.fault, board.delivery.has_earlier) == (None, True)
    board.answer(1)
    board.answer(2)
    board.answer(3)
    assert board.dispatcher.is_idle
    board.dispatcher.recover(moment(time.monotonic()))
    assert (board.delivery.has_earlier, board.dispatcher.active) == (False, 1)
    # Each is answered that was owed an answer; what was asked again meanwhile is run once for both.
    while board.dispatcher.active:
        (*_, run) = (command for command in board.commands if isinstance(command, Run))
        board.answer(run.id)
    ids = [reply["id"] for reply in board.replies]
    assert sorted(map(str, ids)) == ["answered", "answered", "asked", "asked again", "asked again", "new"]
    assert [held.fingerprint for held in board.dispatcher.snapshot(0.0).quarantined] == ["ab" * 8]
    for number in range(1, 7):
        board.confirm(number)
    board.delivery.close()
    assert [run.messages[-1].content for run in board.commands if isinstance(run, Run)] == [
        f"text of {name}" for name in ("asked again", "new", "answered", "asked")
    ]
    assert left_for_the_next(folder) == []
    assert list(Journal(folder / FILE).undelivered()) == []


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.expects_warning
@pytest.mark.parametrize("is_written_on", [True, False])
@pytest.mark.parametrize("suffix", ["", WAL_SUFFIX])
@pytest.mark.parametrize("meddle", [Path.unlink, _replace, _empty])
def test_files_that_somebody_takes_away_are_a_fault_and_made_anew_with_all_that_was_in_them(
    folder: Path, meddle: Callable[[Path], None], suffix: str, *, is_written_on: bool
) -> None:
    board = Board(folder)
    board.hear(envelope("answered"))
    board.answer(1)
    messages = [board.hear(envelope("a"))]
    board.hear_of_disk()
    assert board.delivery._record._journal.checkpoint()
    messages.append(board.hear(envelope("b")))
    if is_written_on:
        board.hear_of_disk()
    meddle(folder / f"{FILE}{suffix}")
    if is_written_on:
        messages.append(board.hear(envelope("c")))
        assert messages[-1] not in board.outlet.acknowledged

    def is_told() -> bool:
        board.hear_of_disk()
        return board.delivery.fault is not None

    wait_until(is_told, "the fault is told", 5.0)
    assert board.outlet.acknowledged[1:] == messages
    board.delivery.flush(time.monotonic() + TRY_AGAIN_S + 1)
    assert board.delivery.fault is None
    board.flush()
    board.hear_of_disk()
    # Whatever this process still has open.
    found = Path(shutil.copytree(folder, folder.with_name("found"), ignore=shutil.ignore_patterns("*-shm")))
    left = [json.loads(left.message.payload)["id"] for left in left_for_the_next(found)]
    assert left == ["a", "b", "c"][: len(messages)]
    again = Board(found)
    again.hear(envelope("answered"))
    assert [(reply["id"], reply["repeat"]) for reply in again.replies] == [("answered", False), ("answered", True)]


@pytest.mark.expects_warning
def test_who_looks_at_the_record_as_the_agent_starts_is_not_waited_for_long(folder: Path) -> None:
    Board(folder).delivery.close()
    look = (
        "import sqlite3, sys; reader = sqlite3.connect(sys.argv[1])\n"
        "reader.execute('SELECT * FROM requests').fetchall(); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", look, str(folder / FILE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        board = Board(folder)
        assert "locked" in (board.delivery.fault or "")
        board.hear(envelope("a"))
        process.communicate()
    board.delivery.flush(time.monotonic() + record.READERS_GONE_S + 1)
    assert board.delivery.fault is None
    board.delivery.close()
    assert [json.loads(left.message.payload)["id"] for left in left_for_the_next(folder)] == ["a"]


@pytest.mark.expects_warning
def test_changes_that_somebody_cuts_off_are_a_fault_although_others_follow(folder: Path) -> None:
    board = Board(folder)
    for name in "abc":
        board.hear(json.dumps({"id": name, "input": "x" * 30_000}))
    board.hear_of_disk()
    _halve(folder / f"{FILE}{WAL_SUFFIX}")
    board.hear(envelope("d"))

    def is_told() -> bool:
        board.hear_of_disk()
        return board.delivery.fault is not None

    wait_until(is_told, "the fault is told", 5.0)
    board.delivery.flush(time.monotonic() + TRY_AGAIN_S + 1)
    board.flush()
    board.hear_of_disk()
    found = shutil.copytree(folder, folder.with_name("found"))
    assert [json.loads(left.message.payload)["id"] for left in left_for_the_next(found)] == ["a", "b", "c", "d"]


def test_what_the_agent_itself_does_to_its_files_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its changes begin anew, are brought to the tables, and are made shorter."""
    for module in (journal_file, journal_sync):
        monkeypatch.setattr(module, "WAL_BYTES", 1 << 16)
    board = Board(folder, "[queue]\ndedup_window_s = 0\n")
    sizes, sync = set(), board.delivery._record._sync
    assert sync is not None
    sync.stop(5.0)  # what its thread does is done here
    for number in range(1, 60):
        board.hear(json.dumps({"id": number, "input": "x" * 20_000 * (number % 3)}))
        board.answer(number)
        board.confirm(number)
        sync._sync()
        if number % 10 == 5:
            board.delivery._record._journal.checkpoint()
        sizes.add((folder / f"{FILE}{WAL_SUFFIX}").stat().st_size)
    assert len(sizes) > 3
    assert 1 << 16 in sizes
    assert board.delivery.fault is None


@pytest.mark.expects_warning
@pytest.mark.parametrize("part", ["held", "repeatable", "unanswered"])
def test_what_cannot_be_read_as_it_is_taken_over_is_taken_over_when_it_can(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """To SQLite a page that the disk does not give is malformed, though the file is whole."""
    first = Board(folder)
    for name in ("answered", "asked", "asked again"):
        first.hear(envelope(name))
    first.answer(1)
    first.confirm(1)

    def fail(_journal: object) -> Iterator[Any]:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with monkeypatch.context() as patch:
        of_memory = getattr(Journal, part)
        patch.setattr(Journal, part, lambda own, *now: fail(own) if own.path else of_memory(own, *now))
        patch.setattr(journal, "copied", fail)
        board = Board(folder)
    assert "malformed" in str(board.delivery.fault)
    board.hear(envelope("asked again"))
    board.answer(1)
    board.delivery.flush(time.monotonic() + TRY_AGAIN_S + 1)
    assert (board.delivery.fault, board.delivery.has_earlier) == (None, True)
    board.dispatcher.recover(moment(time.monotonic()))
    assert not board.delivery.has_earlier
    board.hear(envelope("answered"))
    (*_, run) = (command for command in board.commands if isinstance(command, Run))
    board.answer(run.id)
    assert sorted((str(reply["id"]), reply["repeat"]) for reply in board.replies) == [
        ("answered", True), ("asked", False), ("asked again", False), ("asked again", True)
    ]  # fmt: skip
    assert not (folder / f"{FILE}.damaged").exists()


@pytest.mark.expects_warning
def test_what_is_quarantined_is_so_again_with_the_disk_but_for_what_was_released(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(folder)
    for name in ("stays", "released"):
        board.delivery.hold(Quarantined(name, "generate", None))
    board.flush()
    disk = ReadFault(board, monkeypatch)
    board.delivery.release("released")
    board.delivery.hold(Quarantined("new", "generate", None))
    disk.end()
    assert [held.fingerprint for held in Board(folder).dispatcher.snapshot(0.0).quarantined] == ["stays", "new"]


def test_what_a_disk_tells_that_was_given_up_already_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, is_over = threading.Event(), threading.Event()

    def fail(_sync: JournalSync) -> None:
        begun.set()
        is_over.wait(5.0)
        raise OSError("input/output error")

    own, told = Journal(folder / FILE), list[Synced]()
    monkeypatch.setattr(JournalSync, "_sync", fail)
    sync = JournalSync(folder / FILE, told.append)
    sync.want(1, unacknowledged=20)
    assert begun.wait(5.0)
    sync.stop(0.0)
    is_over.set()
    sync.stop(5.0)
    own.close()
    assert told == []


@pytest.mark.expects_warning
def test_a_disk_that_does_not_take_what_was_written_is_a_fault(folder: Path) -> None:
    board = Board(folder)
    message = board.hear(envelope("a"))
    board.delivery.synced(Synced(generation=1, fault="input/output error"))
    assert board.delivery.fault == "input/output error"
    assert board.outlet.acknowledged == [message]


def test_at_the_end_what_is_committed_is_on_the_disk_and_acknowledged(folder: Path) -> None:
    board = Board(folder)
    message = board.hear(envelope("a"))
    board.delivery.stop(5.0)
    assert board.outlet.acknowledged == [message]
    board.delivery.close()
    assert not (folder / f"{FILE}-wal").exists()
    assert [left.task for left in left_for_the_next(folder)] == ["generate"]


def test_at_the_end_what_the_disk_does_not_take_is_left_to_the_broker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_sync: JournalSync) -> None:
        raise OSError("input/output error")

    board = Board(folder)
    monkeypatch.setattr(JournalSync, "_sync", fail)
    board.hear(envelope("a"))
    board.delivery.stop(5.0)
    board.delivery.close()
    assert board.outlet.acknowledged == []


@pytest.mark.expects_warning
def test_a_reply_that_another_broker_does_not_take_becomes_a_short_one(folder: Path) -> None:
    board = Board(folder)
    board.hear(envelope("a"))
    board.answer(1)
    board.learn(1, PublishResult.REJECTED)
    whole, short = board.replies
    assert (whole["status"], short["status"], short["output"]) == ("ok", "failed", None)
    assert {name: short[name] for name in ("id", "task", "timing")} == {
        name: whole[name] for name in ("id", "task", "timing")
    }
    assert set(short) == set(whole)
    assert cast("dict[str, str]", short["error"])["code"] == "internal"
    # On record too; and not made shorter for ever.
    assert [json.loads(reply.payload)["status"] for _, reply in Journal(folder / FILE).undelivered()] == ["failed"]
    board.learn(2, PublishResult.REJECTED)
    board.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)
    assert len(board.replies) == 2
    assert list(Journal(folder / FILE).undelivered()) == []


def answered_elsewhere(folder: Path, text: str = "fine") -> Board:
    """One whose first reply goes to a topic that its caller named."""
    board = Board(folder)
    board.hear(json.dumps({"id": "a", "input": "x", "reply_to": "edgeai/v1/reply/a"}))
    board.dispatcher.finish(finished(1, text=text), time.monotonic())
    board.flush()
    return board


@pytest.mark.expects_warning
def test_a_reply_to_where_the_broker_lets_nobody_publish_goes_to_the_topic_of_its_task(folder: Path) -> None:
    board = answered_elsewhere(folder)
    board.learn(1, PublishResult.FORBIDDEN)
    first, second = board.outlet.sent
    assert second == replace(first, topic=REQUEST.replace("request", "response"))
    # On record too; a repeated question is answered as ever; and there is no third place.
    assert [reply.topic for _, reply in Journal(folder / FILE).undelivered()] == [second.topic]
    board.learn(2, PublishResult.FORBIDDEN)
    board.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)
    assert (len(board.outlet.sent), board.delivery.lost) == (2, 1)
    assert list(Journal(folder / FILE).undelivered()) == []


@pytest.mark.expects_warning
def test_what_is_refused_though_it_is_short_goes_to_the_topic_of_its_task_and_is_told_at_last(folder: Path) -> None:
    board = answered_elsewhere(folder)
    for number in (1, 2, 3):
        assert board.delivery.lost == 0
        board.learn(number, PublishResult.REJECTED)
    assert [reply["status"] for reply in board.replies] == ["ok", "failed", "failed"]
    elsewhere, task_topic = "edgeai/v1/reply/a", REQUEST.replace("request", "response")
    assert [reply.topic for reply in board.outlet.sent] == [elsewhere, elsewhere, task_topic]
    board.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)
    assert board.delivery.lost == 1
    assert list(Journal(folder / FILE).undelivered()) == []


@pytest.mark.expects_warning
@pytest.mark.parametrize("result", [PublishResult.FORBIDDEN, PublishResult.POSTPONED])
def test_a_reply_that_has_become_too_long_when_it_is_sent_again_is_a_short_one(
    folder: Path, result: PublishResult
) -> None:
    board = answered_elsewhere(folder, "word " * 1000)
    board.outlet.largest = 1000
    board.learn(1, result)
    for _ in range(2):  # what is recorded in one is sent in the next
        board.delivery.flush(time.monotonic() + POSTPONED_S + 0.1)
    assert [reply["status"] for reply in board.replies] == ["ok", "failed"]
    assert [json.loads(reply.payload)["status"] for _, reply in Journal(folder / FILE).undelivered()] == ["failed"]


@pytest.mark.expects_warning
def test_a_reply_that_the_broker_does_not_take_now_is_sent_again_and_at_last_elsewhere(folder: Path) -> None:
    board = answered_elsewhere(folder)
    now = time.monotonic()
    for number in range(1, MOST_TRIES + 1):
        assert len(board.outlet.sent) == number
        board.outlet.results = [(number, PublishResult.POSTPONED)]
        assert board.delivery.postponed == 0
        for later_s in (0.0, POSTPONED_S - 0.1, POSTPONED_S + 0.1):
            board.delivery.flush(now + later_s)
            assert board.delivery.postponed == (later_s < POSTPONED_S and number < MOST_TRIES)
        now += POSTPONED_S + 1
    assert {reply.topic for reply in board.outlet.sent[:-1]} == {"edgeai/v1/reply/a"}
    assert board.outlet.sent[-1].topic == REQUEST.replace("request", "response")
