"""What reaches the disk, the broker and the caller in which order, and what the next process finds."""

import json
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.core.clock import moment
from edge_agent.core.messages import Message, Reply
from edge_agent.core.pipe import EngineRequest, Finish
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.requests.delivery import CONFIRMED_WITHIN_S, MAX_TRIES, RETRY_S
from edge_agent.requests.dispatcher import Dispatcher
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import with_built_in
from edge_agent.store.database import FILE
from edge_agent.store.fsync import FsyncThread, Synced
from edge_agent.store.store import Store, StoredRequest
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
    large_alone,
    ready,
    received,
    rendered,
)

REQUEST = f"{BASE}/infer/generate/request"


class Board:
    """The parts of an agent that deal with requests, as one process."""

    def __init__(self, folder: Path | None, text: str = "") -> None:
        self.outlet = Outlet()
        self.synced: list[Synced] = []
        self.delivery = delivery(self.outlet, folder and folder / FILE, self.synced.append)
        self.delivery.start()
        settings = config(text + TASKS)
        self.commands: list[object] = []
        self.dispatcher = Dispatcher(
            settings,
            with_built_in(settings.tasks),
            self.delivery,
            self.commands.append,
            self._render,
            answerers=large_alone(),
        )
        self.dispatcher.on_worker_ready(MODEL, ready(max_active=1), 0.0)
        self.dispatcher.admission.recover(moment(time.monotonic()))
        self.dispatcher.fill_slots(time.monotonic())

    def _render(self, request: Request, template: str, value: object) -> None:
        self.dispatcher.admission.on_rendered(rendered(request, template, value), time.monotonic())

    def hear(self, payload: str, *, task: str = "generate", topic: str | None = None, **fields: object) -> Message:
        message = inbound(topic or f"{BASE}/infer/{task}/request", payload, at=time.monotonic(), **fields)  # type: ignore[arg-type]
        self.dispatcher.admission.receive(message, time.monotonic())
        self.dispatcher.fill_slots(time.monotonic())
        self.delivery.acknowledge_when_stored(received(message, self.outlet))
        self.flush()
        return message

    def answer(self, number: int) -> None:
        self.dispatcher.on_worker_answer(finished(number), time.monotonic())
        self.flush()

    def flush(self) -> None:
        self.delivery.flush(time.monotonic())

    def confirm(self, number: int) -> None:
        """The broker confirms that reply, and this is written."""
        self.learn(number, PublishResult.CONFIRMED)
        self.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)

    def learn(self, number: int, result: PublishResult) -> None:
        """The broker's result for that reply comes."""
        self.outlet.results = [(number, result)]
        self.flush()

    def hear_of_disk(self) -> None:
        wait_until(lambda: self.synced, "the commits are on the disk", 5.0)
        while self.synced:
            self.delivery.on_synced(self.synced.pop(0))

    @property
    def replies(self) -> list[dict[str, Any]]:
        return [json.loads(publication.payload) for publication in self.outlet.sent]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def reopened(folder: Path) -> Store:
    store = Store(folder / FILE, lambda _: None)
    store.start()
    return store


def stored_requests(folder: Path) -> list[StoredRequest]:
    """Requests that the next process is to answer."""
    return list(reopened(folder).unanswered(moment(time.monotonic())))


def undelivered(folder: Path) -> list[tuple[int, Reply]]:
    """Replies that the next process sends."""
    return Store(folder / FILE, lambda _: None).start()


def stored_rows(folder: Path) -> int:
    (count,) = reopened(folder)._connection.execute("SELECT count(*) FROM requests").fetchone()
    return int(count)


def envelope(name: str) -> str:
    return json.dumps({"id": name, "input": f"text of {name}"})


def after_an_answer(folder: Path, text: str = "", packet_id: int = 1) -> Board:
    """A process that has answered the request `a`, which the broker has confirmed."""
    board = Board(folder, text)
    board.hear(envelope("a"), packet_id=packet_id)
    board.answer(1)
    board.confirm(1)
    return board


def test_a_request_is_acknowledged_when_it_is_on_the_disk_and_not_before(folder: Path) -> None:
    board = Board(folder)
    messages = [board.hear(envelope(name)) for name in "ab"]
    assert board.outlet.acknowledged == []
    board.hear_of_disk()
    if len(board.outlet.acknowledged) == 1:  # they came in two parts
        board.hear_of_disk()
    assert board.outlet.acknowledged == messages


def test_an_unanswered_request_is_run_by_the_next_process_with_its_first_arrival(folder: Path) -> None:
    first = Board(folder)
    for name, fields in (("a", {"stream": True}), ("late", {"deadline_ms": 20})):
        first.hear(json.dumps({"id": name, "input": name, **fields}))
    first.hear("a reading at QoS 0", qos=0)
    time.sleep(0.05)

    board = Board(folder)
    board.dispatcher.fill_slots(time.monotonic())
    board.answer(1)

    # Pieces are not sent twice.
    assert [one.stream for one in board.commands if isinstance(one, EngineRequest)] == [False]
    late, reply = board.replies
    assert (late["id"], late["status"]) == ("late", "expired")
    assert (reply["id"], reply["status"], reply["repeat"]) == ("a", "ok", False)
    assert reply["timing"]["total_ms"] >= 50


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


def test_the_next_process_repeats_an_answer_and_does_not_infer_again(folder: Path) -> None:
    after_an_answer(folder, packet_id=3)
    again = Board(folder)
    again.hear(envelope("a"), packet_id=3, duplicate=True)
    assert again.commands == []
    (reply,) = again.replies
    assert (reply["id"], reply["output"], reply["repeat"]) == ("a", "fine", True)


def test_a_refusal_does_not_outlive_its_configuration(folder: Path) -> None:
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


def test_the_dedup_window_counts_on_in_the_next_process(folder: Path) -> None:
    text = "[queue]\ndedup_window_s = 0.3\n"
    after_an_answer(folder, text)
    time.sleep(0.4)
    again = Board(folder, text)
    again.hear(envelope("a"))
    assert len(again.commands) == 1


def test_a_stored_reading_of_a_removed_task_is_unknown_task(folder: Path) -> None:
    pump = '[tasks.pump]\nkind = "generate"\nsubscribe = ["plant/+/x"]\npublish = "plant/{1}/y"\n'
    # Kept until the end, because SQLite would remove the WAL under the copies when the board is collected.
    first = Board(folder, pump)
    first.hear("hums", topic="plant/7/x")
    for text in ("", pump.replace("plant/+/x", "plant/+/z")):
        board = Board(shutil.copytree(folder, folder.with_name(f"copy{len(text)}")), text)
        board.flush()
        ((topic, reply),) = [(sent.topic, json.loads(sent.payload)) for sent in board.outlet.sent]
        assert topic == f"{BASE}/infer/pump/response"
        assert (reply["status"], code_of(reply)) == ("invalid", "unknown_task")
        assert "no longer subscribes to" in reply["error"]["message"]


def test_a_redelivery_of_a_stored_request_is_the_same_request(folder: Path) -> None:
    Board(folder).hear("a bare reading", packet_id=3)
    board = Board(folder)
    board.hear("a bare reading", packet_id=3, duplicate=True)
    board.answer(1)
    assert len(board.replies) == 1
    assert stored_requests(folder) == []


def test_a_payload_that_is_too_long_is_refused_without_writing_it(folder: Path) -> None:
    board = Board(folder)
    message = board.hear("never written " * 200_000, correlation=b"a")  # more than fits the cache of a transaction
    board.hear_of_disk()
    (reply,) = board.replies
    assert (reply["status"], code_of(reply)) == ("invalid", "too_long")
    assert reply["error"]["message"] == "payload: should be at most 65536 bytes (got 2800000)"
    assert board.outlet.acknowledged == [message]
    assert not any(b"never written" in path.read_bytes() for path in folder.iterdir())


QUIET = """
[tasks.quiet]
kind = "generate"
subscribe = ["quiet/+/hz"]
publish = "quiet/{1}/is"
publish_on = "change"
retain = true
"""


def test_a_reading_whose_answer_is_unchanged_is_settled_and_does_not_come_again(folder: Path) -> None:
    board = Board(folder, QUIET)
    for number in (1, 2):
        board.hear("7", topic="quiet/1/hz", packet_id=number)
        board.answer(number)
    while len(board.outlet.acknowledged) < 2:
        board.hear_of_disk()
    assert len(board.replies) == 1
    # The flag is not stored.
    assert [(row, reply.retain) for row, reply in undelivered(folder)] == [(1, False)]
    assert board.outlet.sent[0].retain
    board.confirm(1)
    board = Board(folder, QUIET)
    board.hear("7", topic="quiet/1/hz", packet_id=2, duplicate=True)
    assert (board.replies, board.commands, stored_requests(folder)) == ([], [], [])


def test_on_the_topic_that_all_replies_share_nothing_is_retained(folder: Path) -> None:
    board = Board(folder, QUIET)
    board.hear("7", topic="quiet/1/hz")
    board.answer(1)
    board.learn(1, PublishResult.FORBIDDEN)
    found = [(one.topic, one.retain) for one in board.outlet.sent]
    assert found == [("quiet/1/is", True), (f"{BASE}/infer/quiet/response", False)]


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_redelivery_of_a_refused_request_gets_the_refusal_again(folder: Path, *, is_killed: bool) -> None:
    board = Board(folder)
    board.dispatcher.admission.is_draining = True
    board.hear("a reading", packet_id=4)
    if is_killed:
        board = Board(folder)
    board.dispatcher.admission.is_draining = False
    board.hear("a reading", packet_id=4, duplicate=True)
    assert board.commands == []
    assert [(reply["status"], reply["repeat"]) for reply in board.replies] == [("busy", False), ("busy", True)]


@pytest.mark.expects_warning
def test_the_quarantine_outlives_the_process(folder: Path) -> None:
    board = Board(folder)
    board.hear(envelope("a"))
    for _ in range(2):
        board.dispatcher.fill_slots(time.monotonic())
        board.dispatcher.on_worker_lost("killed", time.monotonic())
        board.dispatcher.on_worker_ready(MODEL, ready(max_active=1), 0.0)
    board.flush()
    board = Board(folder)
    (held,) = board.dispatcher.as_health(0.0)["quarantine"]
    board.dispatcher.admission.release_quarantined(held["fingerprint"])
    board.flush()
    assert Board(folder).dispatcher.as_health(0.0)["quarantine"] == []


@pytest.mark.expects_warning
def test_a_reply_that_cannot_be_sent_at_any_size_leaves_no_request(folder: Path) -> None:
    board = Board(folder)
    board.outlet.largest = 10
    board.hear(envelope("a"))
    board.answer(1)
    assert board.replies == []
    assert stored_requests(folder) == []


def test_after_the_dedup_window_an_answer_leaves_no_row(folder: Path) -> None:
    board = after_an_answer(folder, "[queue]\ndedup_window_s = 20\n")
    for later_s, rows in ((15.0, 1), (21.0, 0)):
        at = time.monotonic() + later_s
        board.dispatcher.admission.receive(inbound(REQUEST, "at QoS 0", at=at, qos=0), at)
        board.dispatcher.fill_slots(at)
        board.flush()
        assert stored_rows(folder) == rows


@pytest.mark.expects_warning
@pytest.mark.parametrize("reply", [b"{}", b"no JSON"])
def test_a_stored_answer_that_cannot_be_decoded_is_inferred_again(folder: Path, reply: bytes) -> None:
    after_an_answer(folder, packet_id=7).delivery.close()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("UPDATE requests SET reply = ?", (reply,))
    connection.close()
    again = Board(folder)
    again.hear(envelope("a"), packet_id=8)
    again.answer(1)
    assert (again.replies[-1]["id"], again.replies[-1]["status"]) == ("a", "ok")


def test_stop_brings_commits_to_the_disk_and_acknowledges_them(folder: Path) -> None:
    board = Board(folder)
    message = board.hear(envelope("a"))
    board.delivery.stop(5.0)
    assert board.outlet.acknowledged == [message]
    board.delivery.close()
    assert not (folder / f"{FILE}-wal").exists()
    assert [left.task for left in stored_requests(folder)] == ["generate"]


def test_stop_does_not_acknowledge_what_the_disk_does_not_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: FsyncThread) -> None:
        raise OSError("input/output error")

    board = Board(folder)
    monkeypatch.setattr(FsyncThread, "_sync", fail)
    board.hear(envelope("a"))
    board.delivery.stop(5.0)
    board.delivery.close()
    assert board.outlet.acknowledged == []


BARE = '[tasks.t]\nkind = "extract"\nreply = "output"\nschema = { type = "object" }\n'
OUTPUT = {"stop": True}


def answered_barely(folder: Path, *, asks: bool = False) -> Board:
    """A board whose first reply is an output alone, and asks for feedback if `asks` is set."""
    board = Board(folder, BARE)
    answerers = board.dispatcher.admission.answerers
    answer_of = answerers.final_answer
    answerers.final_answer = lambda *given: replace(answer_of(*given), please_check=asks)  # type: ignore[method-assign]
    board.hear("7 mm/s", task="t", packet_id=9, correlation=b"c", content_type="text/plain")
    answer = finished(1, finish=Finish.SCHEMA, text=json.dumps(OUTPUT))
    board.dispatcher.on_worker_answer(answer, time.monotonic())
    board.flush()
    return board


def test_an_output_alone_outlives_the_process_and_is_repeated(folder: Path) -> None:
    first = answered_barely(folder)
    (sent,) = first.outlet.sent
    assert (sent.payload, sent.content_type, sent.correlation) == (b'{"stop":true}', "application/json", b"c")
    again = Board(folder, BARE)
    again.hear("7 mm/s", task="t", packet_id=9, correlation=b"c", content_type="text/plain", duplicate=True)
    assert again.commands == []
    assert again.outlet.sent == [sent, sent]


def test_an_output_that_is_to_be_checked_is_also_sent_whole_and_neither_is_lost_in_a_crash(folder: Path) -> None:
    plain = answered_barely(folder / "plain").outlet.sent
    question, bare = answered_barely(folder / "audited", asks=True).outlet.sent
    assert [bare] == plain
    assert question.topic == f"{BASE}/infer/t/audit"
    document = json.loads(question.payload)
    assert (document["please_check"], document["output"], document["reply_to"]) == (True, OUTPUT, bare.topic)
    again = Board(folder / "audited", BARE)
    again.flush()
    assert again.outlet.sent == [question, bare]


def test_a_word_for_no_output_and_the_whole_reply_outlive_the_process_and_are_repeated(folder: Path) -> None:
    tasks = f'{BARE}no_output = "unknown"\n'
    first = Board(folder, tasks)
    first.hear("{", task="t", packet_id=9, correlation=b"c")
    first.flush()
    whole, word = first.outlet.sent
    assert (whole.topic, whole.correlation, word.payload) == (f"{BASE}/infer/t/error", b"c", b"unknown")
    assert json.loads(whole.payload)["reply_to"] == word.topic
    again = Board(folder, tasks)
    again.hear("{", task="t", packet_id=9, correlation=b"c", duplicate=True)
    again.flush()
    assert [one.payload for one in again.outlet.sent[:2]] == [whole.payload, b"unknown"]
    assert [json.loads(again.outlet.sent[2].payload)["repeat"], again.outlet.sent[3]] == [True, word]


@pytest.mark.expects_warning
def test_an_output_that_cannot_be_sent_fails_on_the_error_topic(folder: Path) -> None:
    board = answered_barely(folder)
    board.learn(1, PublishResult.UNSENDABLE)
    board.flush()
    bare, failure = board.outlet.sent
    reply = json.loads(failure.payload)
    assert failure.topic == f"{BASE}/infer/t/error"
    assert (reply["status"], reply["output"], reply["reply_to"]) == ("failed", None, bare.topic)
    assert [sent.topic for _, sent in undelivered(folder)] == [failure.topic]


@pytest.mark.expects_warning
def test_a_rejected_reply_becomes_a_short_one(folder: Path) -> None:
    board = Board(folder, '[tasks.generate]\nkind = "generate"\necho_input = "all"\n')
    board.hear(envelope("a"))
    board.answer(1)
    board.learn(1, PublishResult.UNSENDABLE)
    whole, short = board.replies
    assert (whole["status"], short["status"], short["output"]) == ("ok", "failed", None)
    assert [short[name] for name in ("id", "task", "timing")] == [whole[name] for name in ("id", "task", "timing")]
    assert set(short) == set(whole) - {"input"}
    assert code_of(short) == "internal"
    # It is on record, too, and not made shorter for ever.
    assert [json.loads(reply.document)["status"] for _, reply in undelivered(folder)] == ["failed"]
    board.learn(2, PublishResult.UNSENDABLE)
    board.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)
    assert len(board.replies) == 2
    assert undelivered(folder) == []


def answered_elsewhere(folder: Path, text: str = "fine") -> Board:
    """A board whose first reply goes to a topic that its caller named."""
    board = Board(folder)
    board.hear(json.dumps({"id": "a", "input": "x", "reply_to": "edgeai/v1/reply/a"}))
    board.dispatcher.on_worker_answer(finished(1, text=text), time.monotonic())
    board.flush()
    return board


@pytest.mark.expects_warning
def test_a_forbidden_reply_goes_to_the_topic_of_its_task(folder: Path) -> None:
    board = answered_elsewhere(folder)
    board.learn(1, PublishResult.FORBIDDEN)
    first, second = board.outlet.sent
    assert second == replace(first, topic=REQUEST.replace("request", "response"))
    # It is on record, too; a repeated question is answered as ever, and there is no third place.
    assert [reply.topic for _, reply in undelivered(folder)] == [second.topic]
    board.learn(2, PublishResult.FORBIDDEN)
    board.delivery.flush(time.monotonic() + CONFIRMED_WITHIN_S)
    assert (len(board.outlet.sent), board.delivery.lost) == (2, 1)
    assert undelivered(folder) == []


@pytest.mark.expects_warning
@pytest.mark.parametrize("result", [PublishResult.FORBIDDEN, PublishResult.POSTPONED])
def test_a_reply_that_is_too_long_when_sent_again_becomes_a_short_one(folder: Path, result: PublishResult) -> None:
    board = answered_elsewhere(folder, "word " * 1000)
    board.outlet.largest = 1000
    board.learn(1, result)
    for _ in range(2):  # what is recorded in one is sent in the next
        board.delivery.flush(time.monotonic() + RETRY_S + 0.1)
    assert [reply["status"] for reply in board.replies] == ["ok", "failed"]
    assert [json.loads(reply.document)["status"] for _, reply in undelivered(folder)] == ["failed"]


@pytest.mark.expects_warning
def test_a_postponed_reply_is_sent_again_and_finally_redirected(folder: Path) -> None:
    board = answered_elsewhere(folder)
    now = time.monotonic()
    for number in range(1, MAX_TRIES + 1):
        assert len(board.outlet.sent) == number
        board.outlet.results = [(number, PublishResult.POSTPONED)]
        assert board.delivery.postponed == 0
        for later_s in (0.0, RETRY_S - 0.1, RETRY_S + 0.1):
            board.delivery.flush(now + later_s)
            assert board.delivery.postponed == (later_s < RETRY_S and number < MAX_TRIES)
        now += RETRY_S + 1
    assert {reply.topic for reply in board.outlet.sent[:-1]} == {"edgeai/v1/reply/a"}
    assert board.outlet.sent[-1].topic == REQUEST.replace("request", "response")


def break_disk(board: Board, *, is_readable: bool) -> None:
    """Makes statements of the open connection fail, all of them or those that write."""
    own = board.delivery.store._connection

    class Broken:
        in_transaction = False

        def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
            if is_readable and statement.startswith("SELECT"):
                return own.execute(statement, values)
            raise sqlite3.OperationalError("disk I/O error")

        def close(self) -> None:
            own.close()

    board.delivery.store._connection = cast("sqlite3.Connection", Broken())


@pytest.mark.expects_warning
@pytest.mark.parametrize("is_readable", [True, False])
def test_once_the_disk_has_failed_requests_are_answered_and_acknowledged(folder: Path, *, is_readable: bool) -> None:
    board = Board(folder)
    for name in ("answered", "waits"):
        board.hear(envelope(name))
    board.answer(1)
    board.confirm(1)
    break_disk(board, is_readable=is_readable)

    message = board.hear(envelope("new"))
    assert board.delivery.store.fault == "disk I/O error"
    assert board.outlet.acknowledged[-1] == message
    for number in (2, 3):
        board.answer(number)
        board.confirm(number)
    if is_readable:
        board.hear(envelope("answered"))
    assert [(reply["id"], reply["repeat"]) for reply in board.replies] == [
        ("answered", False), ("waits", False), ("new", False), *([("answered", True)] if is_readable else []),
    ]  # fmt: skip


@pytest.mark.expects_warning
def test_a_database_that_is_damaged_while_it_is_used_costs_no_reply(folder: Path) -> None:
    board = Board(folder)
    for number in range(40):
        board.hear(json.dumps({"id": number, "input": "x" * 20_000}), packet_id=number + 1)
    board.delivery.store._connection.execute("PRAGMA wal_checkpoint(RESTART)")
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:2048] + b"\xff" * (path.stat().st_size - 2048))
    for number in range(1, 41):
        board.answer(number)
    assert sorted(str(reply["id"]) for reply in board.replies) == sorted(str(number) for number in range(40))
    assert "malformed" in str(board.delivery.store.fault)
