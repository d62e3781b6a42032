"""Answers on the page, the audits among them, and what people say of them."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.strict_json import encode
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.tools.watch.site import BoardLevel
from edge_agent.web import answers
from edge_agent.web.check_file import CheckFile
from tests.web import answering
from tests.web.answering import INPUT, LABELS, TASKS, Bench

FEEDBACK = "edgeai/v1/hall1/press-04/infer/triage/feedback"
RESPONSE = "edgeai/v1/hall1/press-04/infer/triage/response"


@pytest.fixture(autouse=True)
def _journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "FOLDER", tmp_path)


def test_an_answer_is_shown_with_its_score_and_can_be_marked() -> None:
    bench = Bench()
    bench.reply(number="reading-17", machine="M7", reading_topic="plant/M7/x")
    (row,) = bench.rows()
    assert [row[name] for name in ("device", "task", "kind", "id", "machine", "topic")] == [
        "press-04", "triage", "classify", "reading-17", "M7", "plant/M7/x",
    ]  # fmt: skip
    assert (row["output"], row["score"], row["labels"]) == ("bearing fault", 0.97, LABELS)
    assert (row["is_open_audit"], row["can_mark"], row["mark"]) == (False, True, None)


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
    assert check["topic"] == "plant/M7/x"
    (row,) = bench.rows()
    assert (row["output"], row["score"], row["is_open_audit"], row["can_mark"]) == (None, None, True, False)

    waiting = bench.mark(key, answer="imbalance", by="Ana")
    assert waiting.status_code == 202
    assert waiting.json()["output"] is None
    assert "bearing" not in all_text()
    bench.tick(answers.UNDO_S)
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
        "feedback", "press-04", "triage", "imbalance", "Ana",
    )  # fmt: skip


def test_a_mark_is_sent_after_ten_seconds_to_the_board_that_answered() -> None:
    bench = Bench()
    mark = bench.mark(bench.audit(), answer="imbalance", by="Ana").json()
    assert mark["sends_at"] == mark["at"] + 10
    bench.tick(answers.UNDO_S - 1)
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
    bench.tick(answers.UNDO_S)
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
    assert bench.reveal(second, by="Ana").json()["can_correct"] is False
    assert bench.mark(key, answer="bearing fault", by="Ana").json()["error"]["code"] == "answer_seen"


def test_a_correction_that_the_board_does_not_keep_leaves_the_first_answer() -> None:
    bench = Bench()
    key = bench.audit()
    bench.mark_and_keep(key, answer="imbalance")
    bench.mark(key, answer="normal")
    bench.tick(answers.UNDO_S)
    bench.tick(5.5)
    assert [(mark["state"], mark["can_correct"]) for mark in bench.marks()] == [("unanswered", False), ("kept", True)]
    assert bench.checks()["open"] == 0
    # A result that is late counts.
    bench.result(correlation=bench.live.published[-1].correlation)
    assert [(mark["state"], mark["can_correct"]) for mark in bench.marks()] == [("kept", True), ("corrected", False)]


def test_answers_without_their_reading_are_counted() -> None:
    bench = Bench()
    bench.reply(number=1)
    bench.reply("remark", number=2)
    bench.audit(number=3)
    for device, count in (("press-04", 1), ("press-05", 0)):
        document = bench.browser.get("/api/v1/answers", params={"device": device, "machine": "M7"}).json()
        assert document["without_input"] == count


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
    bench.tick(answers.UNDO_S)
    bench.result("odd", data={"is_right": True})
    (mark,) = bench.marks()
    assert (mark["is_hidden"], mark["can_correct"], mark["output"]["unusual"]) == (False, True, True)
    assert bench.mark(key, answer="bearing dry", by="Ana").status_code == 202


def test_ones_own_marks_are_listed_however_many_others_come() -> None:
    bench = Bench()
    bench.mark(bench.audit(number="mine"), answer="normal", by="Ana")
    for number in range(30):
        bench.mark(bench.audit(number=number), answer="normal", by="Ben")
    assert [len(bench.checks(by=name)["marks"]) for name in ("Ana", "Ben", "Eve")] == [21, 20, 20]


def test_what_was_sent_cannot_be_undone() -> None:
    bench = Bench()
    mark = bench.mark(bench.audit(), answer="imbalance").json()
    bench.tick(answers.UNDO_S)
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
    bench.tick(answers.UNDO_S)
    sent = bench.live.published[0].correlation
    bench.result(id="y", correlation=None)
    assert bench.marks()[0]["state"] == "sent"
    bench.result(id="x", correlation=sent if correlation else None)
    assert bench.marks()[0]["state"] == "kept"


def test_no_result_within_five_seconds_is_said_and_the_audit_is_asked_again() -> None:
    bench = Bench()
    key = bench.audit()
    bench.mark(key, answer="imbalance")
    bench.tick(answers.UNDO_S)
    bench.tick(5.5)
    (mark,) = bench.marks()
    assert mark["state"] == "unanswered"
    assert mark["error"] == "no result within 5 s: may the account `web` write feedback?"
    assert (mark["output"], mark["score"]) == (None, None)
    assert [check["key"] for check in bench.checks()["checks"]] == [key]
    # A result that is late counts.
    bench.result()
    assert (bench.marks()[0]["state"], bench.checks()["open"]) == ("kept", 0)


@pytest.mark.parametrize("why", ["the board is offline", "the connection to the broker was lost"])
def test_no_result_of_a_board_that_is_offline_or_without_a_broker_names_that_cause(why: str) -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    bench.tick(answers.UNDO_S)
    bench.live.is_up = "board" in why
    bench.board("press-04", BoardLevel.OFFLINE)
    bench.tick(5.5)
    assert bench.marks()[0]["error"] == f"no result within 5 s: {why}"


def test_a_board_that_no_longer_has_the_answer_closes_the_audit() -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    bench.tick(answers.UNDO_S)
    bench.result(status="failed", data=None, error={"code": "not_found", "message": "no answer with this id is kept"})
    (mark,) = bench.marks()
    assert (mark["state"], mark["output"]) == ("refused", "bearing fault")
    assert mark["error"] == "too old for this board: no answer with this id is kept"
    assert bench.checks()["open"] == 0


def test_another_refusal_leaves_the_audit_open_and_blind() -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    bench.tick(answers.UNDO_S)
    bench.result(status="failed", data=None, error={"code": "bad_field", "message": "answer: should be …"})
    (mark,) = bench.marks()
    assert (mark["state"], mark["output"], mark["error"]) == ("refused", None, "answer: should be …")
    assert bench.checks()["open"] == 1


def test_a_broker_that_forbids_it_is_named_at_once() -> None:
    bench = Bench()
    bench.mark(bench.audit(), answer="imbalance")
    bench.tick(answers.UNDO_S)
    bench.refuse(1, PublishResult.FORBIDDEN)
    (mark,) = bench.marks()
    assert mark["state"] == "refused"
    assert mark["error"] == "the broker refuses it: the account `web` may not write feedback"


def test_feedback_of_somebody_else_closes_an_open_audit() -> None:
    bench = Bench()
    key = bench.audit()
    bench.result()
    assert bench.checks()["open"] == 0
    assert bench.mark(key, answer="normal").json()["error"]["message"] == "somebody else has already answered this"
    assert bench.rows()[0]["output"] == "bearing fault"


def test_audits_without_their_input_are_not_offered_and_the_page_says_what_is_missing() -> None:
    bench = Bench()
    bench.reply(please_check=True)
    checks = bench.checks()
    assert (checks["open"], checks["checks"]) == (0, [])
    assert 'set `echo_input = "audits"` for triage' in checks["reason"]
    assert bench.rows()[0]["output"] is None


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({}, "no board has named its tasks yet"),
        ({"remark": TASKS["remark"]}, "no task asks for feedback"),
        (TASKS, "no answer has arrived since this page was started"),
    ],
)
def test_an_empty_list_says_why(tasks: dict[str, Any], words: str) -> None:
    bench = Bench(tasks)
    assert bench.browser.get("/api/v1/answers").json()["reason"] is None  # boards were heard just now
    bench.tick(10.0)
    assert words in bench.checks()["reason"]
    assert "no answer has arrived" in bench.browser.get("/api/v1/answers").json()["reason"]


def test_a_list_that_is_worked_off_needs_no_reason() -> None:
    bench = Bench()
    bench.reply()
    assert bench.checks()["reason"] is None


def test_open_checks_survive_a_restart_and_stay_blind(tmp_path: Path) -> None:
    before, file = Bench(), tmp_path / "checks.json"
    keys = [before.audit(number=number, reading_topic="plant/x") for number in (1, 2, 3)]
    before.mark(keys[0], answer="imbalance")
    before.tick(answers.UNDO_S)
    before.result()
    before.mark(keys[1], answer="imbalance")
    before.tick(answers.UNDO_S)  # no result yet
    CheckFile(file).save(before.live.answers.kept_checks)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    after = Bench()
    after.live.answers.restore_checks(CheckFile(file).read())
    heard = after.live.rows["press-04"]
    after.live.rows["press-04"] = replace(heard, info={})
    after.tick()
    assert [after.checks()[name] for name in ("open", "reason_code", "unheard")] == [0, "unheard", 2]
    after.live.rows["press-04"] = heard
    after.tick()
    assert [check["key"] for check in after.checks()["checks"]] == keys[1:]
    assert "bearing" not in json.dumps(after.checks()["checks"]).replace(json.dumps(LABELS), "")
    after.reply(number=4)
    after.audit(number=3, reading_topic="plant/x")
    assert [row["id"] for row in after.rows()] == [4]  # the audit is known already
    assert after.mark(keys[2], answer="imbalance").status_code == 202
    after.tick(answers.UNDO_S)
    assert [topic for topic, _ in after.sent] == [FEEDBACK]


@pytest.mark.expects_warning
@pytest.mark.parametrize("text", ["", "{", "[1]", '{"checks": [{"key": "a"}]}', "[" * 100_000])
def test_checks_that_cannot_be_read_are_lost_and_said(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "checks.json"
    file.write_text(text, "utf-8")
    assert CheckFile(file).read() == []
    assert "are lost" in caplog.text


def test_a_retained_answer_is_not_offered_because_somebody_may_have_checked_it() -> None:
    bench = Bench()
    bench.audit(is_retained=True)
    assert bench.checks()["open"] == 0
    assert bench.rows()[0]["output"] is None


def test_an_estimate_takes_a_number() -> None:
    bench = Bench()
    key = bench.audit("hours", output=41.5, scores=None)
    (check,) = bench.checks()["checks"]
    assert (check["labels"], check["unit"]) == (None, "h")
    faulty_answers: list[Any] = ["41", True, None, 10**400, [41], {}]
    for faulty in faulty_answers:
        assert bench.mark(key, answer=faulty).status_code == 400
    assert bench.mark(key, answer=40).status_code == 202


def test_an_unusual_reading_shows_why_and_takes_any_text() -> None:
    bench = Bench()
    output = {"unusual": True, "rarity": 0.0004, "because": [{"field": "vibration_mm_s"}]}
    key = bench.audit("odd", output=output, scores=None)
    (check,) = bench.checks()["checks"]
    assert check["unusual"] == {"rarity": 0.0004, "because": [{"field": "vibration_mm_s"}]}
    assert bench.rows()[0]["output"] == output
    for faulty in (" ", 3, "x" * 65):
        assert bench.mark(key, answer=faulty).status_code == 400
    assert bench.mark(key, answer="belt slips").status_code == 202


@pytest.mark.parametrize("said", [{}, {"answer": "nosuch"}, {"correct": True}, {"correct": 1}, {"answer": 3}])
def test_a_blind_audit_takes_only_one_of_its_labels(said: dict[str, Any]) -> None:
    bench = Bench()
    assert bench.mark(bench.audit(), **said).status_code == 400


def test_an_answer_that_is_no_audit_can_be_confirmed_and_later_corrected() -> None:
    bench = Bench()
    key = bench.reply()
    bench.mark(key, correct=True)
    bench.tick(answers.UNDO_S)
    assert bench.mark(key, answer="normal").status_code == 409
    bench.result()
    assert bench.mark(key, answer="normal").status_code == 202
    bench.tick(answers.UNDO_S)
    bench.result()
    assert [entry.text for entry in bench.live.journal.read(has_feedback=True, limit=10)] == [
        "normal",
        "right: bearing fault",
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
    bench.tick(answers.UNDO_S)
    ((sent_to, feedback),) = bench.sent
    assert (sent_to, feedback["reply_to"]) == (FEEDBACK, reply_to)


def test_an_answer_on_a_topic_of_the_plant_is_known_by_what_info_says() -> None:
    bench = Bench()
    bench.hear("plant/pump-1/label", b"bearing fault")
    (row,) = bench.rows()
    assert (row["device"], row["task"], row["output"], row["can_mark"]) == ("press-04", "label", "bearing fault", False)
    bench.hear("plant/pump-1/other", b"bearing fault")
    assert len(bench.rows()) == 1
    bench.board("press-05")
    bench.hear("plant/pump-1/label", b"bearing fault")
    assert (bench.rows()[0]["device"], bench.rows()[0]["task"]) == (None, "label")


def test_what_a_board_names_makes_the_page_join_no_shared_subscription() -> None:
    """It would take a pool's requests away from its boards; a malformed one would end the connection."""
    bench = Bench()
    before = set(bench.live.answers.filters)
    patterns = ("$share/presses/edgeai/v1/hall1/pool/presses/infer/{1}/request", "$share/x", "$SYS/{1}")
    tasks = {f"t{number}": {**TASKS["label"], "publish": pattern} for number, pattern in enumerate(patterns)}
    bench.board("press-05", tasks=tasks)
    assert set(bench.live.answers.filters) == before


def test_an_output_that_came_alone_is_hidden_while_the_audit_of_it_is_open() -> None:
    bench = Bench()
    key = bench.audit("label", topic="edgeai/v1/hall1/press-04/infer/label/audit", reply_to="plant/pump-1/label")
    bench.hear("plant/pump-1/label", b"bearing fault")
    assert [row["output"] for row in bench.rows()] == [None, None]
    bench.mark(key, answer="normal")
    bench.tick(answers.UNDO_S)
    bench.result("label")
    assert [row["output"] for row in bench.rows()] == [None, None]
    bench.reveal(bench.marks()[0]["mark"])
    assert [row["output"] for row in bench.rows()] == ["bearing fault", "bearing fault"]


def test_a_retained_output_that_comes_again_is_hidden_while_an_audit_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_SAME_TIME_S", 0.0)  # the audit was asked long ago
    bench = Bench()
    bench.audit("label", topic="edgeai/v1/hall1/press-04/infer/label/audit", reply_to="plant/pump-1/label")
    bench.hear("plant/pump-1/label", b"bearing fault", is_retained=True)
    assert bench.rows()[0]["output"] is None
    bench.hear("plant/pump-1/label", b"normal")
    assert bench.rows()[0]["output"] == "normal"


def test_the_same_check_twice_is_one_and_another_with_its_id_replaces_it() -> None:
    bench = Bench()
    bench.audit()
    bench.audit()
    bench.audit(repeat=True)
    assert bench.checks()["open"] == 1
    assert len(bench.rows()) == 1
    key = bench.audit(input={"vibration_mm_s": 2.0})
    assert [check["key"] for check in bench.checks()["checks"]] == [key]


def test_viewers_get_the_twenty_newest_and_how_many_came_meanwhile() -> None:
    bench = Bench()
    bench.reply()
    first = bench.browser.get("/api/v1/answers").json()
    for number in range(50):
        bench.hear(RESPONSE, {"id": number, "status": "ok", "task": "triage", "device": "press-04"})
    second = bench.browser.get("/api/v1/answers").json()
    assert [row["id"] for row in second["rows"]] == [*range(49, 29, -1)]
    assert second["cursor"] - first["cursor"] == 50
    assert bench.rows(task="hours") == []
    assert len(bench.rows(task="triage", device="press-04")) == 20


def test_older_answers_are_found_page_by_page() -> None:
    bench = Bench()
    for number in range(45):
        bench.reply(number=number)
    bench.reply("hours", number="other")
    pages = [bench.browser.get("/api/v1/answers", params={"task": "triage"}).json()]
    while pages[-1]["older"] is not None:
        query = {"task": "triage", "before": pages[-1]["older"]}
        pages.append(bench.browser.get("/api/v1/answers", params=query).json())
    assert [row["id"] for page in pages for row in page["rows"]] == [*range(44, -1, -1)]


def test_the_answers_and_checks_of_a_machine_are_found_by_a_part_of_its_name() -> None:
    bench = Bench()
    bench.hear("plant/pump-7/label", b"normal")
    named: list[dict[str, Any]] = [
        {"machine": "Pump-7"}, {"reading_topic": "plant/pump-7/x"}, {"input": {"asset": "PUMP-7"}},
        {"machine": "pump-8", "degraded": ["pump-7"]}, {},
    ]  # fmt: skip
    for number, fields in enumerate(named):
        bench.audit(number=number, **fields)
    encoded = encode({"id": 5, "task": "triage", "status": "ok", "machine": 'Größe 3\\Pumpe "A"'})
    bench.hear("edgeai/v1/hall1/press-04/infer/triage/response", encoded)
    assert [row["id"] for row in bench.rows(machine='GRÖSSE 3\\pumpe "a')] == [5]
    assert [row["id"] for row in bench.rows(machine="pump-7")] == [2, 1, 0, None]
    assert [check["id"] for check in bench.checks(machine="Ump-7")["checks"]] == [0, 1, 2]
    assert bench.checks(machine="pump-9", task="triage", device="press-04")["open"] == 0


def test_only_the_newest_answers_are_kept_and_audits_apart_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWERS", 10)
    bench = Bench()
    key = bench.reply(number="old")
    bench.audit(number="check")
    for number in range(20):
        bench.reply(number=number)
    assert bench.mark(key, correct=True).status_code == 404
    assert bench.checks()["open"] == 1
    monkeypatch.setattr(answers, "MAX_OPEN_CHECKS", 12)
    for number in range(5):
        bench.audit(number=f"q{number}")
    assert [check["id"] for check in bench.checks()["checks"]] == ["q2", "q3", "q4"]


def test_the_audits_of_one_board_push_out_none_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_OPEN_CHECK_BYTES", 40_000)
    bench = Bench()
    bench.board("press-05")
    bench.audit(number="calm")
    for number in range(answers.MAX_OPEN_CHECKS + 10):
        reply = {"id": number, "task": "triage", "device": "press-05", "status": "ok", "please_check": True}
        bench.hear(RESPONSE.replace("press-04", "press-05"), {**reply, "input": INPUT, "output": "normal"})
    assert [check["id"] for check in bench.checks(device="press-04")["checks"]] == ["calm"]
    assert 50 < bench.checks()["open"] < 100


def test_tasks_that_no_board_names_or_too_many_of_one_leave_no_trace() -> None:
    bench = Bench()
    bench.board("press-05", tasks={f"task-{number}": TASKS["triage"] for number in range(1000)})
    assert len(bench.browser.get("/api/v1/tasks").json()["targets"][1]["tasks"]) == 64
    bench.reply("forged", please_check=True)
    bench.reply(please_check=True)
    assert bench.checks()["reason"].endswith("for triage")


def test_the_bytes_of_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_BYTES", 5_000)
    bench = Bench()
    for number in range(10):
        bench.reply(number=number, reasoning="x" * 1000)
    assert 0 < len(bench.rows()) <= 4
    bench.hear(RESPONSE, b"x" * (answers.MAX_ANSWER_BYTES + 1))
    assert bench.rows()[0]["id"] == 9


def test_what_a_board_writes_arrives_escaped_and_its_labels_still_fit() -> None:
    tasks = {"triage": {**TASKS["triage"], "labels": ["a\u202eb", "c"]}}
    bench = Bench(tasks)
    key = bench.audit(input={"\x1b[31m": "\u202e"})
    (check,) = bench.checks()["checks"]
    assert (check["input"], check["labels"]) == ({"\\x1b[31m": "\\u202e"}, ["a\\u202eb", "c"])
    bench.mark(key, answer="a\\u202eb")
    bench.tick(answers.UNDO_S)
    assert bench.sent[0][1]["answer"] == "a\u202eb"


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"\xff", b'{"please_check":true}', b'{"status":1,"please_check":true,"id":{}}', b'"status"'],
)
def test_nonsense_on_a_reply_topic_harms_nobody(payload: bytes) -> None:
    bench = Bench()
    for topic in (RESPONSE, "edgeai/v1/reply/x", "edgeai/v1/hall1//infer//response", f"{FEEDBACK}/result"):
        bench.hear(topic, payload)
    bench.tick()
    assert bench.checks()["checks"] == []
    assert all(row["can_mark"] is False for row in bench.rows())


def test_partial_replies_are_no_answers() -> None:
    bench = Bench()
    bench.hear(RESPONSE, {"id": 1, "task": "triage", "status": "partial", "seq": 0, "delta": "x"})
    assert bench.rows() == []


def test_tasks_come_with_their_last_input() -> None:
    bench = Bench()
    bench.board("press-05", health={"pool": {"name": "presses"}})
    bench.reply(input=INPUT)
    bench.reply(topic="edgeai/v1/hall1/pool/presses/infer/triage/response", input={"n": 1})
    targets = {target["target"]: target for target in bench.browser.get("/api/v1/tasks").json()["targets"]}
    inputs = {
        name: {task["name"]: task["input"] for task in target["tasks"]}["triage"] for name, target in targets.items()
    }
    assert inputs == {"press-04": INPUT, "press-05": None, "pool/presses": {"n": 1}}
    assert targets["pool/presses"]["level"] == "ok"


def test_more_or_longer_labels_than_a_task_may_have_are_left_out() -> None:
    bench = Bench({"triage": {**TASKS["triage"], "labels": ["normal", "x" * 1000, 7, *map(str, range(1000))]}})
    bench.audit()
    (check,) = bench.checks()["checks"]
    (target,) = bench.browser.get("/api/v1/tasks").json()["targets"]
    for labels in (check["labels"], bench.rows()[0]["labels"], target["tasks"][0]["labels"]):
        assert labels[:2] == ["normal", "0"]
        assert len(labels) <= 200


def test_needs_say_what_each_promise_takes() -> None:
    bench = Bench()
    needs = bench.checks(task="triage")["needs"]
    assert [(need["device"], need["task"], need["target"], need["more"]) for need in needs] == [
        ("press-04", "triage", 0.9, 29),
        ("press-04", "triage", 0.95, 59),
    ]


def test_a_board_whose_promise_is_not_proven_says_how_far_it_is() -> None:
    bench = Bench({"triage": {**TASKS["triage"], "min_accuracy": 0.95}})
    bench.board("press-05")
    rows = bench.live.rows
    accuracy = {"triage": {"asked": 30, "audits": 20, "accuracy": 1.0, "missed": 0}}
    rows["press-04"] = replace(rows["press-04"], why=("promise-unproven",), health={"accuracy": accuracy})
    bench.live.take_rows(list(rows.values()), 0.0)
    boards = {board["device"]: board for board in bench.browser.get("/api/v1/changes").json()["boards"]}
    assert boards["press-04"]["unproven"] == [{"task": "triage", "answered": 20, "more": 39}]
    assert boards["press-05"]["unproven"] == []


def test_each_board_says_how_many_checks_are_open() -> None:
    bench = Bench()
    bench.audit()
    assert bench.live.answers.open_checks("press-04") == 1
    assert bench.live.answers.open_checks("press-05") == 0


def test_a_check_that_its_board_no_longer_keeps_is_no_longer_offered() -> None:
    bench = Bench()
    bench.audit(number=1, ts="2026-11-28T09:00:00.000Z")
    kept = bench.audit(number=2, ts="2026-11-28T10:00:00.000Z")
    waits = {"asked": 2, "audits": 0, "open": 1, "open_since": "2026-11-28T10:00:00.100Z"}
    students = {"triage": {"student": "s"}}
    bench.board("press-04", health={"accuracy": {**answering.ACCURACY, "triage": waits}, "students": students})
    assert bench.checks()["open"] == 2
    bench.board("press-04", health={"accuracy": {**answering.ACCURACY, "triage": waits}})
    assert [check["key"] for check in bench.checks()["checks"]] == [kept]
