"""A few of what `python -m rigs.fuzz` does by the thousand, and the faults that it finds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rigs.fuzz.answers import default_topic, topics
from rigs.fuzz.children import ENDED, FAILED, HUNG, RAISED, Outcome, try_in_child
from rigs.fuzz.malformed import Message, mark, message
from rigs.fuzz.messages import BASE, Book

ROOT = Path(__file__).parents[2]
REPLY: dict[str, Any] = {
    "id": "fuzz-1", "task": "triage", "device": "fuzz", "ts": None, "status": "invalid", "output": None, "scores": None,
    "finish": None, "reasoning": None, "error": {"code": "bad_field", "message": "m", "retry_after_s": None},
    "degraded": [], "fields": None, "repeat": False, "model": None, "usage": None,
    "timing": {**dict.fromkeys(("queued_ms", "prefill_ms", "decode_ms", "batch")), "total_ms": 1.0},
}  # fmt: skip
TOPIC, MARKED = f"{BASE}/infer/triage/request", {"CorrelationData": mark(1)}
ASKED = Message(number=1, kind="odd field", topic=TOPIC, payload=b"{", properties=MARKED)
OK = {
    "status": "ok", "output": "normal", "finish": "labels", "error": None,
    "model": {"name": "m", "sha256": "0", "quantization": "Q8_0"},
    "usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 0, "energy_j": None},
}  # fmt: skip
ODD = {"output": None, "degraded": ["unsure", "out-of-range"]}
NAMED = {"field": "oil_c", "value": 1000, "usual": [41.0, 88.0]}
UNUSUAL = {"unusual": True, "rarity": 0.002, "because": [NAMED]}
ANSWER = default_topic(ASKED, BASE)


@pytest.mark.usefixtures("require_mosquitto")
@pytest.mark.parametrize(
    ("part", "cases", "seen"),
    [
        ("gguf", range(10), {"refused", "answered"}),
        ("checkpoints", range(60), {"refused", "converted"}),
        ("bundles", range(15, 19), {"refused", "answered"}),
        ("signed", range(20), {"refused", "opened"}),
        ("schemas", range(12), {"refused", "answered"}),
        ("configurations", range(10), {"refused", "good"}),
        ("messages", range(80), {"ok", "invalid/bad_field", "invalid/bad_json", "invalid/not_utf8"}),
    ],
)
def test_damaged_input_is_refused_in_words_or_works(part: str, cases: range, seen: set[str], demo_bundle: Path) -> None:
    # In an interpreter of its own, because what forks must not come after a test that ran OpenMP.
    words = ["--first", str(cases.start), "--count", str(len(cases)), "--model", str(demo_bundle / "model.gguf")]
    command = [sys.executable, "-m", "rigs.fuzz", part, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = done.stdout.splitlines()[-1].removeprefix(f"{part}: ").split(", ")
    assert seen <= {one.split(" ", 1)[1] for one in counts}


def die() -> Outcome:
    import ctypes  # noqa: PLC0415 - to die of

    ctypes.string_at(0)
    return "unharmed", ""


def loop() -> Outcome:
    while True:
        pass


def grow() -> Outcome:
    return "unharmed", str(len(bytearray(1 << 33)))


@pytest.mark.parametrize(
    ("work", "outcome"), [(die, ENDED), (loop, HUNG), (grow, RAISED), (lambda: (FAILED, "why"), FAILED)]
)
def test_what_may_not_be_is_told(work: object, outcome: str) -> None:
    found, why = try_in_child(work, cpu_s=1, memory_bytes=1 << 28)  # type: ignore[arg-type]
    assert (found, bool(why)) == (outcome, True)


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
        ([(ANSWER, OK)], None),
        ([(ANSWER, OK | {"output": None})], "output"),
        ([(ANSWER, OK | ODD | {"fields": [NAMED]})], None),
        ([(ANSWER, OK | ODD)], "fields"),
        ([(ANSWER, OK | {"fields": [NAMED]})], "fields"),
        ([(ANSWER, OK | {"finish": "model", "output": 41.5, "interval": [30.0, 55.0]})], None),
        ([(ANSWER, OK | {"finish": "model", "output": 41.5, "interval": [55.0, 30.0]})], "interval"),
        ([(ANSWER, OK | {"interval": [30.0, 55.0]})], "interval"),
        ([(ANSWER, OK | {"finish": "model", "output": UNUSUAL})], None),
        ([(ANSWER, OK | {"finish": "model", "output": UNUSUAL | {"rarity": 2}})], "unusual"),
    ],
)
def test_the_book_sees_what_is_wrong(answers: list[tuple[str, dict[str, Any]]], fault: str | None) -> None:
    book = Book(BASE)
    book.sent(ASKED)
    for topic, wrong in answers:
        book.note(topic, mark(1), json.dumps({**REPLY, **wrong}).encode())
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
    payload = json.dumps({"input": "x", "reply_to": reply_to}).encode()
    asked = Message(number=1, kind="odd reply_to", topic=ASKED.topic, payload=payload)
    assert topics(asked, BASE) == {reply_to if goes_there else ANSWER}
