"""A short run of rigs.fuzz.messages, and the faults that its book finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rigs.fuzz.answers import default_topic, topics
from rigs.fuzz.malformed import Message, mark, message
from rigs.fuzz.messages import BASE, Book, run

REPLY: dict[str, Any] = {
    "id": "fuzz-1", "task": "triage", "device": "fuzz", "ts": None, "status": "invalid", "output": None, "scores": None,
    "finish": None, "reasoning": None, "error": {"code": "bad_field", "message": "m", "retry_after_s": None},
    "degraded": [], "repeat": False, "model": None, "usage": None,
    "timing": dict.fromkeys(("queued_ms", "prefill_ms", "decode_ms", "total_ms", "batch")),
}  # fmt: skip
ASKED = Message(number=1, kind="odd_field", topic=f"{BASE}/infer/triage/request", payload=b"{", is_marked=True)
ANSWER = default_topic(ASKED, BASE)


@pytest.mark.usefixtures("require_mosquitto")
def test_malformed_messages_are_answered_once_in_the_right_place_and_no_process_ends(tmp_path: Path) -> None:
    outcome = run(tmp_path, "echo:", 0, 160)
    assert outcome.faults == []
    assert outcome.book.answered >= outcome.book.owed > 130


def test_a_message_is_the_same_each_time_and_unlike_the_next() -> None:
    one, again, other = (message(number, BASE, is_v5=True) for number in (7, 7, 8))
    assert one == again
    assert one.payload != other.payload


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ([(ANSWER, {})], None),
        ([], "0 answers"),
        ([(ANSWER, {}), (ANSWER, {})], "2 answers"),
        ([("edgeai/v1/reply/elsewhere", {})], "answered on"),
        ([(ANSWER, {"status": "busy"})], "status and code"),
        ([(ANSWER, {"output": "x"})], "output"),
        ([(ANSWER, {"timing": {}})], "timing"),
        ([(ANSWER, {"task": "generate"})], "task"),
    ],
)
def test_the_book_sees_what_is_wrong(answers: list[tuple[str, dict[str, Any]]], fault: str | None) -> None:
    book = Book(BASE)
    book.sent(ASKED)
    for topic, wrong in answers:
        book.note_answer(topic, mark(1), json.dumps({**REPLY, **wrong}).encode())
    book.close()
    assert bool(book.faults) == (fault is not None)
    assert fault is None or fault in book.faults[0]


@pytest.mark.parametrize(
    ("reply_to", "goes_there"),
    [
        ("edgeai/v1/reply/mine", True),
        (f"{BASE}/infer/triage/response/mine", True),
        ("edgeai/v1/reply/request", False),
        ("edgeai/v1/reply/cmd/x", False),
        ("edgeai/v1/reply/#", False),
        ("$SYS/x", False),
        ("elsewhere", False),
    ],
)
def test_an_answer_goes_where_the_contract_lets_it(reply_to: str, *, goes_there: bool) -> None:
    asked = Message(
        number=1,
        kind="odd_reply_to",
        topic=ASKED.topic,
        payload=json.dumps({"input": "x", "reply_to": reply_to}).encode(),
    )
    assert topics(asked, BASE) == {reply_to if goes_there else ANSWER}
