"""What people say about answers, and what becomes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.mqtt.outbox import PublishResult
from edge_agent.tools.watch.site import BoardLevel
from edge_agent.web.marks import UNDO_S
from tests.web import answering
from tests.web.answering import FEEDBACK, INPUT, LABELS, RESPONSE, Bench


@pytest.fixture(autouse=True)
def _journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "FOLDER", tmp_path)


def test_no_route_reveals_the_answer_of_an_audit_until_who_has_answered_it_asks_for_it() -> None:
    bench = Bench()
    key = bench.audit(degraded=["unsure-because-bearing"], reading_topic="plant/M7/x")

    def all_text() -> str:
        paths = ("checks", "answers", "changes", "tasks")
        texts = [bench.browser.get(f"/api/v1/{path}").text for path in paths]
        return "".join(texts).replace(json.dumps(LABELS, separators=(",", ":")), "")

    assert "bearing" not in all_text()
    assert "0.97" not in all_text()
    (check,) = bench.checks()["checks"]
    assert (check["key"], check["input"], check["labels"], check["unusual"]) == (key, INPUT, LABELS, None)
    assert check["machine"] == "M7"
    (row,) = bench.rows()
    assert (row["output"], row["score"], row["is_open_audit"], row["can_mark"]) == (None, None, True, False)

    waiting = bench.mark(key, answer="imbalance", by="Ana")
    assert waiting.status_code == 202
    assert waiting.json()["output"] is None
    assert "bearing" not in all_text()
    bench.tick(UNDO_S)
    assert "bearing" not in all_text()
    bench.result(data={"output": "bearing fault", "answer": "imbalance", "is_right": False})
    (mark,) = bench.marks()
    assert (mark["state"], mark["is_hidden"], mark["is_right"]) == ("kept", True, None)
    assert "bearing" not in all_text()
    assert bench.reveal(mark["mark"], by="Ben").status_code == 409
    assert bench.reveal(mark["mark"], by="Ana").status_code == 200
    (mark,) = bench.marks()
    assert (mark["output"], mark["score"], mark["is_right"]) == ("bearing fault", 0.97, False)
    assert bench.rows()[0]["output"] == "bearing fault"
    (entry,) = bench.live.journal.read(has_feedback=True, limit=10)
    assert (entry.what, entry.device, entry.name, entry.text, entry.by) == (
        "feedback", "press-04", "triage", "imbalance; machine: M7; id: 1", "Ana",
    )  # fmt: skip


def test_a_mark_is_sent_after_ten_seconds_to_the_board_that_answered() -> None:
    bench = Bench()
    mark = bench.mark(bench.audit(), answer="imbalance", by="Ana").json()
    assert mark["sends_at"] == mark["at"] + 10
    bench.tick(UNDO_S - 1)
    assert bench.sent == []
    bench.tick(1)
    assert bench.sent == [(FEEDBACK, {"id": 1, "answer": "imbalance", "reply_to": RESPONSE, "by": "Ana"})]


def test_an_audit_whose_mark_is_undone_is_open_and_blind_again() -> None:
    bench = Bench()
    key = bench.audit()
    mark = bench.mark(key, answer="imbalance").json()
    assert bench.checks()["open"] == 0
    undone = bench.undo(mark["mark"])
    assert (undone.status_code, undone.json()["state"], undone.json()["output"]) == (200, "undone", None)
    bench.tick(UNDO_S)
    assert bench.sent == []
    assert [check["key"] for check in bench.checks()["checks"]] == [key]


def test_an_audit_is_corrected_by_who_answered_it_until_the_answer_of_the_board_was_shown() -> None:
    bench = Bench()
    key = bench.audit()
    bench.mark_and_keep(key, answer="imbalance", by="Ana")
    assert bench.mark(key, answer="normal", by="Ben").json()["error"]["code"] == "already_answered"
    undone = bench.mark(key, answer="bearing fault", by="Ana").json()["mark"]
    assert bench.undo(undone, by="Ana").status_code == 200
    second = bench.mark_and_keep(key, answer="normal", by="Ana")
    assert [feedback["answer"] for _, feedback in bench.sent] == ["imbalance", "normal"]
    assert [(mark["answer"], mark["state"], mark["can_correct"], mark["output"]) for mark in bench.marks()] == [
        ("normal", "kept", True, None),
        ("bearing fault", "undone", False, None),
        ("imbalance", "corrected", False, None),
    ]
    texts = [entry.text for entry in bench.live.journal.read(has_feedback=True, limit=10)]
    assert texts == ["normal; id: 1; corrects: imbalance", "imbalance; id: 1"]
    assert bench.reveal(second, by="Ana").json()["can_correct"] is False
    assert bench.mark(key, answer="bearing fault", by="Ana").json()["error"]["code"] == "answer_seen"


def test_a_correction_that_the_board_does_not_keep_leaves_the_first_answer() -> None:
    bench = Bench()
    key = bench.audit()
    bench.mark_and_keep(key, answer="imbalance")
    bench.mark(key, answer="normal")
    bench.tick(UNDO_S)
    bench.tick(5.5)
    assert [(mark["state"], mark["can_correct"]) for mark in bench.marks()] == [("unanswered", False), ("kept", True)]
    assert bench.checks()["open"] == 0
    # A result that is late counts.
    bench.result(correlation=bench.live.published[-1].correlation)
    assert [(mark["state"], mark["can_correct"]) for mark in bench.marks()] == [("kept", True), ("corrected", False)]


def test_a_withheld_answer_comes_with_its_best_label_and_the_reason() -> None:
    bench = Bench()
    key = bench.audit(output=None, degraded=["unsure", "promise-unproven"])
    name = bench.mark_and_keep(key, answer="imbalance")
    hidden, seen = bench.marks()[0], bench.reveal(name).json()
    assert (hidden["best"], hidden["score"], hidden["is_unproven"]) == (None, None, False)
    assert (seen["output"], seen["best"], seen["score"], seen["is_unproven"]) == (None, "bearing fault", 0.97, True)


def test_the_name_of_an_unusual_reading_can_be_corrected_because_nothing_was_hidden() -> None:
    bench = Bench()
    key = bench.audit("odd", output={"unusual": True, "because": []}, scores=None)
    bench.mark(key, answer="belt slips", by="Ana")
    bench.tick(UNDO_S)
    bench.result("odd", data={"is_right": True})
    (mark,) = bench.marks()
    assert (mark["is_hidden"], mark["can_correct"], mark["output"]["unusual"]) == (False, True, True)
    assert bench.mark(key, answer="bearing dry", by="Ana").status_code == 202


def unusual(bench: Bench, number: int) -> str:
    return bench.audit("odd", number, output={"unusual": True, "because": []}, scores=None)


def name_and_keep(bench: Bench, key: str, number: int, name: str) -> None:
    bench.mark(key, answer=name)
    bench.tick(UNDO_S)
    bench.result("odd", id=number, correlation=bench.live.published[-1].correlation)


def test_the_names_last_given_to_unusual_readings_are_offered_also_by_the_next_process() -> None:
    bench = Bench()
    keys = [unusual(bench, number) for number in range(5)]
    for number, name in enumerate(("oil cooler", "oil coler", "usual", "leak; on the left")):
        name_and_keep(bench, keys[number], number, name)
    name_and_keep(bench, keys[1], 1, "leak")
    bench.mark_and_keep(bench.audit(number=9), answer="imbalance")
    names = ["leak", "leak; on the left", "oil cooler"]
    assert bench.checks()["names"] == {"odd": names}
    waiting = bench.mark(keys[4], answer="fan").json()["mark"]
    assert bench.checks()["names"] == {"odd": ["fan", *names]}
    bench.undo(waiting)
    assert bench.checks()["names"] == {"odd": names}

    after = Bench()
    after.live._restore_names()
    assert after.checks()["names"] == {"odd": names}
    assert after.browser.get("/api/v1/answers").json()["names"] == {"odd": names}


def test_a_name_that_no_board_kept_is_offered_until_its_reading_gets_another() -> None:
    bench = Bench()
    key = unusual(bench, 1)
    bench.mark(key, answer="oil coler")
    bench.tick(UNDO_S)
    bench.tick(5.5)
    assert bench.checks()["names"] == {"odd": ["oil coler"]}
    bench.mark(key, answer="oil cooler")
    assert bench.checks()["names"] == {"odd": ["oil cooler"]}


def test_ones_own_marks_are_listed_however_many_others_come() -> None:
    bench = Bench()
    bench.mark(bench.audit(number="mine"), answer="normal", by="Ana")
    for number in range(30):
        bench.mark(bench.audit(number=number), answer="normal", by="Ben")
    assert [len(bench.checks(by=name)["marks"]) for name in ("Ana", "Ben", "Eve")] == [21, 20, 20]


def test_what_was_sent_cannot_be_undone() -> None:
    bench = Bench()
    mark = bench.mark(bench.audit(), answer="imbalance").json()
    bench.tick(UNDO_S)
    assert bench.undo(mark["mark"]).status_code == 409
    assert bench.undo(bench.mark(bench.audit(number=2), answer="normal", by="Ana").json()["mark"]).status_code == 409
    assert bench.undo("nosuch").status_code == 404


def test_without_a_broker_a_mark_waits_and_can_still_be_undone() -> None:
    bench = Bench()
    mark = bench.mark(bench.audit(), answer="imbalance").json()
    bench.live.is_up = False
    bench.tick(60)
    assert bench.sent == []
    assert bench.undo(mark["mark"]).status_code == 200


def test_a_stop_sends_what_waits() -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    for part in bench.live._parts:
        part.stop()
    assert len(bench.sent) == 1


def test_a_second_person_hears_who_was_first() -> None:
    bench = Bench()
    key = bench.audit()
    bench.mark(key, answer="imbalance", by="Ana")
    second = bench.mark(key, answer="normal", by="Ben")
    assert second.status_code == 409
    assert second.json()["error"] == {"code": "already_answered", "message": "Ana has already answered this"}


@pytest.mark.parametrize("correlation", [None, "mark"])
def test_a_result_is_joined_by_its_correlation_or_its_id(correlation: str | None) -> None:
    bench = Bench()
    bench.mark(bench.audit(number="x"), answer="imbalance")
    bench.tick(UNDO_S)
    sent = bench.live.published[0].correlation
    bench.result(id="y", correlation=None)
    assert bench.marks()[0]["state"] == "sent"
    bench.result(id="x", correlation=sent if correlation else None)
    assert bench.marks()[0]["state"] == "kept"


def test_no_result_within_five_seconds_is_said_and_the_audit_is_asked_again() -> None:
    bench = Bench()
    key = bench.audit()
    bench.mark(key, answer="imbalance")
    bench.tick(UNDO_S)
    bench.tick(5.5)
    (mark,) = bench.marks()
    assert mark["state"] == "unanswered"
    assert mark["error_code"] == "no_result.account"
    assert (mark["output"], mark["score"]) == (None, None)
    assert [check["key"] for check in bench.checks()["checks"]] == [key]
    # A result that is late counts.
    bench.result()
    assert (bench.marks()[0]["state"], bench.checks()["open"]) == ("kept", 0)


@pytest.mark.parametrize("why", ["offline", "broker"])
def test_no_result_of_a_board_that_is_offline_or_without_a_broker_names_that_cause(why: str) -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    bench.tick(UNDO_S)
    bench.live.is_up = why != "broker"
    bench.board("press-04", BoardLevel.OFFLINE)
    bench.tick(5.5)
    assert bench.marks()[0]["error_code"] == f"no_result.{why}"


def test_a_board_that_no_longer_has_the_answer_closes_the_audit() -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    bench.tick(UNDO_S)
    bench.result(status="failed", data=None, error={"code": "not_found", "message": "no answer with this id is kept"})
    (mark,) = bench.marks()
    assert (mark["state"], mark["output"]) == ("refused", "bearing fault")
    assert mark["error_code"] == "too_old"
    assert bench.checks()["open"] == 0


def test_another_refusal_leaves_the_audit_open_and_blind() -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    bench.tick(UNDO_S)
    bench.result(status="failed", data=None, error={"code": "bad_field", "message": "answer: should be …"})
    (mark,) = bench.marks()
    assert (mark["state"], mark["output"], mark["error"]) == ("refused", None, "answer: should be …")
    assert bench.checks()["open"] == 1


def test_a_broker_that_forbids_it_is_named_at_once() -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    bench.tick(UNDO_S)
    bench.refuse(1, PublishResult.FORBIDDEN)
    (mark,) = bench.marks()
    assert mark["state"] == "refused"
    assert mark["error_code"] == "forbidden"


def test_an_estimate_takes_a_number() -> None:
    bench = Bench()
    key = bench.audit("hours", output=41.5, scores=None)
    (check,) = bench.checks()["checks"]
    assert (check["labels"], check["unit"]) == (None, "h")
    faulty_answers: list[Any] = ["41", True, None, 10**400, [41], {}]
    for faulty in faulty_answers:
        assert bench.mark(key, answer=faulty).status_code == 400
    assert bench.mark(key, answer=40).status_code == 202


def test_an_audit_of_an_estimate_may_have_no_number() -> None:
    bench = Bench()
    key = bench.audit("hours", output=None, interval=None, scores=None, degraded=["unsure", "unlike-training"])
    (check,) = bench.checks()["checks"]
    assert (check["key"], check["kind"], check["input"]) == (key, "estimate", answering.INPUT)
    mark = bench.mark(key, answer=80).json()
    bench.tick(UNDO_S)
    correlation = bench.live.published[-1].correlation
    bench.result("hours", correlation=correlation, data={"output": None, "answer": 80, "is_right": None})
    (entry,) = bench.live.journal.read(has_feedback=True, limit=1)
    assert entry.text == "80; id: 1"
    bench.reveal(mark["mark"])
    (mark,) = bench.marks()
    assert (mark["state"], mark["is_hidden"], mark["answer"]) == ("kept", False, 80)
    assert (mark["output"], mark["best"], mark["score"], mark["is_right"]) == (None, None, None, None)


@pytest.mark.parametrize("said", [{}, {"answer": "nosuch"}, {"correct": True}, {"correct": 1}, {"answer": 3}])
def test_a_blind_audit_takes_only_one_of_its_labels(said: dict[str, Any]) -> None:
    bench = Bench()
    assert bench.mark(bench.audit(), **said).status_code == 400


def test_an_audit_of_a_task_with_more_than_two_labels_can_be_none_of_them() -> None:
    bench = Bench()
    mark = bench.mark(bench.audit(), correct=False, by="Ana").json()
    assert (mark["answer"], mark["is_none"], mark["output"]) == (False, True, None)
    bench.tick(UNDO_S)
    assert bench.sent == [(FEEDBACK, {"id": 1, "correct": False, "reply_to": RESPONSE, "by": "Ana"})]
    bench.result(data={"output": "bearing fault", "answer": None, "is_right": False})
    (entry,) = bench.live.journal.read(has_feedback=True, limit=1)
    assert entry.text == "none of the labels; id: 1"
    assert bench.marks()[0]["is_hidden"]
    # The board would take the other one for right.
    bench = Bench({"triage": {**answering.TASKS["triage"], "labels": LABELS[:2]}})
    assert bench.mark(bench.audit(), correct=False).status_code == 400


def test_an_answer_that_is_no_audit_can_be_confirmed_and_later_corrected() -> None:
    bench = Bench()
    key = bench.reply()
    bench.mark(key, correct=True)
    bench.tick(UNDO_S)
    assert bench.mark(key, answer="normal").status_code == 409
    bench.result()
    assert bench.mark(key, answer="normal").status_code == 202
    bench.tick(UNDO_S)
    bench.result()
    assert [entry.text for entry in bench.live.journal.read(has_feedback=True, limit=10)] == [
        "normal; id: 1; corrects: right: bearing fault",
        "right: bearing fault; id: 1",
    ]
    assert [feedback for _, feedback in bench.sent] == [
        {"id": 1, "correct": True, "reply_to": RESPONSE},
        {"id": 1, "answer": "normal", "reply_to": RESPONSE},
    ]


@pytest.mark.parametrize(
    ("topic", "more", "reply_to"),
    [
        ("edgeai/v1/reply/mcu-7", {}, "edgeai/v1/reply/mcu-7"),
        (
            "edgeai/v1/hall1/pool/presses/infer/triage/response",
            {},
            "edgeai/v1/hall1/pool/presses/infer/triage/response",
        ),
        ("edgeai/v1/hall1/press-04/infer/triage/response/x", {}, "edgeai/v1/hall1/press-04/infer/triage/response/x"),
        ("edgeai/v1/hall1/press-04/infer/triage/audit", {"reply_to": "plant/x"}, "plant/x"),
    ],
)
def test_the_reply_topic_is_told_as_the_board_knows_it(topic: str, more: dict[str, Any], reply_to: str) -> None:
    bench = Bench()
    bench.mark(bench.audit(topic=topic, **more), answer="normal")
    bench.tick(UNDO_S)
    ((sent_to, feedback),) = bench.sent
    assert (sent_to, feedback["reply_to"]) == (FEEDBACK, reply_to)
