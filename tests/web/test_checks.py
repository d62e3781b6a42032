"""The checks that the page offers, keeps and hides, and what promises still need."""

import itertools
import json
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.tools.watch.site import BoardLevel
from edge_agent.web import checks
from edge_agent.web.check_file import CheckFile
from edge_agent.web.feedback import RESULT_S
from edge_agent.web.marks import UNDO_S
from tests.web import answering
from tests.web.answering import FEEDBACK, INPUT, LABELS, RESPONSE, TASKS, Bench


@pytest.fixture(autouse=True)
def _journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "FOLDER", tmp_path)


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
    assert (checks["reason"], checks["reason_tasks"]) == ("without_input", "triage")
    assert bench.rows()[0]["output"] is None


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ({}, "no_tasks"),
        ({"remark": TASKS["remark"]}, "no_audits"),
        (TASKS, "silence"),
    ],
)
def test_an_empty_list_says_why(tasks: dict[str, Any], reason: str) -> None:
    bench = Bench(tasks)
    assert bench.browser.get("/api/v1/answers").json()["reason"] is None  # boards were heard just now
    bench.tick(10.0)
    assert bench.checks()["reason"] == reason
    assert bench.browser.get("/api/v1/answers").json()["reason"] == "silence"


def test_a_list_that_is_worked_off_needs_no_reason() -> None:
    bench = Bench()
    bench.reply()
    assert bench.checks()["reason"] is None


def test_open_checks_survive_a_restart_and_stay_blind(tmp_path: Path) -> None:
    before, file = Bench(), tmp_path / "checks.json"
    keys = [before.audit(number=number, reading_topic="plant/x") for number in (1, 2, 3)]
    before.mark(keys[0], answer="imbalance")
    before.tick(UNDO_S)
    before.result()
    before.mark(keys[1], answer="imbalance")
    before.tick(UNDO_S)  # no result yet
    CheckFile(file).save(before.live.answers.checks.kept)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    after = Bench()
    after.live.answers.restore_checks(CheckFile(file).read())
    heard = after.live.rows["press-04"]
    after.live.rows["press-04"] = replace(heard, info={})
    after.tick()
    assert [after.checks()[name] for name in ("open", "reason", "unheard")] == [0, "unheard", 2]
    # A browser that still shows one of them must not say that nobody can answer it any more.
    assert [after.checks(shown=key)["closed"] for key in keys] == [keys[0], None, None]
    after.live.rows["press-04"] = heard
    after.tick()
    assert [check["key"] for check in after.checks()["checks"]] == keys[1:]
    assert "bearing" not in json.dumps(after.checks()["checks"]).replace(json.dumps(LABELS), "")
    after.reply(number=4)
    after.audit(number=3, reading_topic="plant/x")
    assert [row["id"] for row in after.rows()] == [4]  # the audit is known already
    assert after.mark(keys[2], answer="imbalance").status_code == 202
    after.tick(UNDO_S)
    assert [topic for topic, _ in after.sent] == [FEEDBACK]


def test_after_a_restart_the_checks_of_a_stopped_board_wait_until_it_says_which_count(tmp_path: Path) -> None:
    before, file = Bench(), tmp_path / "checks.json"
    for number, ts in ((1, "2026-11-28T09:00:00.000Z"), (2, "2026-11-28T10:00:00.000Z")):
        before.audit(number=number, ts=ts)
    CheckFile(file).save(before.live.answers.checks.kept)

    after = Bench({})
    after.live.answers.restore_checks(CheckFile(file).read())
    after.board("press-04", BoardLevel.STOPPED, health={})
    assert [after.checks()[name] for name in ("open", "reason", "unheard")] == [0, "unheard", 2]
    waits = {"asked": 2, "audits": 0, "open": 1, "open_since": "2026-11-28T10:00:00.100Z"}
    after.board("press-04", health={"ts": "2026-11-28T10:00:02Z", "accuracy": {"triage": waits}})
    assert [check["id"] for check in after.checks()["checks"]] == [2]
    # A board that is away again could keep no answer, so people would be asked the same again and again.
    for level in (BoardLevel.STOPPED, BoardLevel.OFFLINE):
        after.board("press-04", level, health={})
        assert [after.checks()[name] for name in ("open", "reason", "unheard")] == [0, "unheard", 1]


def test_after_a_restart_a_late_result_still_says_who_answered(tmp_path: Path) -> None:
    before, file = Bench(), tmp_path / "checks.json"
    before.board("press-04", BoardLevel.STOPPED, health={})
    mark = before.mark(before.audit(), answer="imbalance", by="ana").json()["mark"]
    before.tick(UNDO_S)
    CheckFile(file).save(before.live.answers.checks.kept, before.live.answers.marks)

    after = Bench()
    after.board("press-04", BoardLevel.STOPPED, health={})
    after.live.answers.restore_checks(CheckFile(file).read())
    assert [(each["state"], each["answer"]) for each in after.marks()] == [("sent", "imbalance")]
    after.tick(RESULT_S + 1)
    assert [each["error_code"] for each in after.marks()] == ["no_result.stopped"]
    after.board("press-04")
    assert after.checks()["open"] == 1
    after.result(correlation=mark.encode())
    assert (after.checks()["open"], after.marks()[0]["state"]) == (0, "kept")
    (entry,) = after.live.journal.read(what=frozenset({"feedback"}), limit=1)
    assert (entry.text, entry.by) == ("imbalance; id: 1", "ana")


def test_after_a_kill_a_check_whose_answer_is_in_the_journal_is_not_open_again(tmp_path: Path) -> None:
    before, file = Bench(), tmp_path / "checks.json"
    keys = [before.audit(number=number) for number in (1, 11)]
    CheckFile(file).save(before.live.answers.checks.kept)
    before.mark(keys[0], answer="imbalance")
    before.tick(UNDO_S)
    before.result()

    after = Bench()
    after.live.answers.restore_checks(CheckFile(file).read())
    answered = before.live.journal.read(what=frozenset({"feedback"}), limit=10)
    after.live.answers.checks.close_answered(answered)
    after.tick()
    assert [check["key"] for check in after.checks()["checks"]] == keys[1:]


def test_the_more_megabytes_checks_have_the_less_often_they_are_written_except_at_the_end(tmp_path: Path) -> None:
    bench, file, numbers = Bench(), CheckFile(tmp_path / "checks.json"), itertools.count()

    def count_after_a_minute(*, is_last: bool = False) -> int:
        bench.audit(number=f"{next(numbers)} {'x' * 100_000}")
        file.save(bench.live.answers.checks.kept, is_last=is_last)
        return len(CheckFile(tmp_path / "checks.json").read())

    for _ in range(21):
        bench.audit(number=f"{next(numbers)} {'x' * 100_000}")
    assert [count_after_a_minute() for _ in range(5)] == [0, 0, 24, 24, 24]
    assert count_after_a_minute(is_last=True) == 27


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


def test_where_readings_may_be_unusual_the_page_says_since_when_it_has_listened() -> None:
    bench = Bench()
    bench.live._note_connection(time.monotonic(), 1.0)  # no connection yet
    assert bench.checks()["listening_since"] is None
    bench.live._feed.client.connections += 1
    bench.live._note_connection(time.monotonic(), 2.0)
    queries: list[dict[str, str]] = [{}, {"task": "odd"}, {"task": "triage"}, {"device": "press-05"}]
    assert [bench.checks(**query)["has_uncounted"] for query in queries] == [True, True, False, False]
    assert bench.checks()["listening_since"] == 2.0


def test_an_output_that_came_alone_is_hidden_while_the_audit_of_it_is_open() -> None:
    bench = Bench()
    key = bench.audit("label", topic="edgeai/v1/hall1/press-04/infer/label/audit", reply_to="plant/pump-1/label")
    bench.hear("plant/pump-1/label", b"bearing fault")
    assert [row["output"] for row in bench.rows()] == [None, None]
    bench.mark(key, answer="normal")
    bench.tick(UNDO_S)
    bench.result("label")
    assert [row["output"] for row in bench.rows()] == [None, None]
    bench.reveal(bench.marks()[0]["mark"])
    assert [row["output"] for row in bench.rows()] == ["bearing fault", "bearing fault"]


def test_a_retained_output_that_comes_again_is_hidden_while_an_audit_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_SAME_TIME_S", 0.0)  # the audit was asked long ago
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


@pytest.mark.parametrize(("bound", "value"), [("MAX_KEPT", 60), ("MAX_KEPT_OF_BOARD", 60), ("MAX_KEPT_BYTES", 40_000)])
def test_the_audits_of_one_task_push_out_none_of_another(
    bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, bound, value)
    bench = Bench()
    bench.board("press-05")
    bench.audit(number="calm")
    for number in range(100):
        reply = {"id": number, "task": "triage", "device": "press-05", "status": "ok", "please_check": True}
        response = RESPONSE.replace("press-04", "press-05")
        bench.hear(response, {**reply, "input": INPUT, "output": "normal"})
        if number == 0:
            label = {**reply, "task": "label", "input": INPUT, "output": "normal"}
            bench.hear(response.replace("triage", "label"), label)
    assert [check["id"] for check in bench.checks(device="press-04")["checks"]] == ["calm"]
    assert [check["id"] for check in bench.checks(task="label")["checks"]] == [0]
    bench.tick()
    assert 50 < bench.checks()["open"] < 90


def test_a_closed_check_is_dropped_before_an_older_open_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_KEPT", 3)
    bench = Bench()
    for number in range(3):
        bench.audit(number=number)
    bench.result(id=1)
    bench.audit(number=3)
    assert [check["id"] for check in bench.checks()["checks"]] == [0, 2, 3]


def test_replies_that_name_ever_more_boards_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_KEPT", 3)
    bench = Bench()
    for number in range(10):
        reply = {"id": 1, "task": "triage", "device": f"b{number}", "status": "ok", "please_check": True}
        bench.hear("edgeai/v1/reply/client", {**reply, "input": INPUT, "output": "normal"})
    kept = bench.live.answers.checks
    assert len(kept._kept_of) == len(kept._bytes_of) == len(list(kept.kept)) == 3
    assert kept._bytes == sum(len(answer.payload) for answer in kept.kept)


def _open_audits(bench: Bench, at: int, count: int) -> list[Any]:
    """The board says that `count` audits are open. Returns what the page says about those that it does not have."""
    accuracy = {**answering.ACCURACY, "triage": {"asked": count, "audits": 0, "missed": 0, "open": count}}
    bench.board("press-04", health={"ts": f"2026-12-01T00:00:{at:02}.000Z", "accuracy": accuracy})
    not_here: list[Any] = bench.checks()["not_here"]
    return not_here


def test_all_audits_that_a_board_keeps_of_a_task_by_default_are_offered_the_oldest_first() -> None:
    bench = Bench()
    for number in range(1000):
        reply = {"id": number, "task": "triage", "device": "press-04", "status": "ok", "please_check": True}
        bench.hear(RESPONSE, {**reply, "input": INPUT, "output": "normal"})
    assert _open_audits(bench, 0, 1000) == []
    checks = bench.checks()
    assert (checks["open"], len(checks["checks"])) == (1000, 20)
    assert checks["checks"][0]["id"] == 0


def test_a_list_of_one_machine_says_how_many_of_the_same_promise_it_leaves_out() -> None:
    bench = Bench({"triage": {**TASKS["triage"], "min_accuracy": 0.95}, "label": TASKS["label"]})
    for number, machine in enumerate(("M1", "M2", "M1", "M2", "M2")):
        bench.audit(number=number, input={"machine": machine})
    bench.audit("label", number=9, input={"machine": "M2"})
    assert [bench.checks(machine=machine)["left_out"] for machine in ("M1", "M2", "M3")] == [3, 2, 0]
    assert (bench.checks()["left_out"], bench.checks(task="label")["left_out"]) == (0, 0)


def test_the_page_says_how_many_audits_it_lacks_because_an_answer_to_a_newer_one_ends_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "MAX_KEPT_OF_BOARD", 3)
    bench = Bench()
    for number in range(5):
        bench.audit(number=number)
    lacking = {"device": "press-04", "task": "triage", "n": 2, "is_promised": False, "topic": None}
    assert _open_audits(bench, 0, 5) == [lacking]
    bench.mark_and_keep(bench.checks()["checks"][0]["key"], answer="normal")
    assert bench.checks()["not_here"] == [lacking]
    assert bench.checks(task="label")["not_here"] == []
    assert _open_audits(bench, 1, 4) == [lacking]
    # Somebody answers one on the board.
    assert _open_audits(bench, 2, 3) == [{**lacking, "n": 1}]
    # A health document that has overtaken a check says nothing yet.
    assert _open_audits(bench, 3, 2) == []
    assert _open_audits(bench, 4, 3) == []
    # That all of them are answered does not make it a question of the rights of the account.
    for check in bench.checks()["checks"]:
        bench.mark_and_keep(check["key"], answer="normal")
    assert (_open_audits(bench, 5, 3), bench.checks()["open"]) == ([{**lacking, "n": 1}], 0)


@pytest.mark.parametrize(
    ("task", "topic"),
    [
        ({}, "edgeai/v1/hall1/+/infer/#"),
        ({"publish": "plant/{1}/triage"}, "plant/+/triage"),
        ({"publish": "plant/{1}/triage", "reply": "output"}, "edgeai/v1/hall1/+/infer/#"),
        ({"publish": "plant/{machine}/triage"}, "plant/{machine}/triage"),
    ],
)
def test_a_page_without_any_check_names_the_topic_that_its_account_may_not_be_allowed_to_read(
    task: dict[str, str], topic: str
) -> None:
    bench = Bench()
    accuracy = {**answering.ACCURACY, "triage": {"asked": 27, "audits": 0, "open": 27}}
    tasks = {**TASKS, "triage": {**TASKS["triage"], **task, "min_accuracy": 0.95}}
    for second in (0, 1):
        health = {"ts": f"2026-12-01T00:00:0{second}.000Z", "accuracy": accuracy}
        bench.board("press-04", tasks=tasks, health=health)
    lacking = {"device": "press-04", "task": "triage", "n": 27, "is_promised": True, "topic": topic}
    assert bench.checks()["not_here"] == [lacking]
    (unproven,) = bench.live.answers.checks.unproven(bench.live.rows["press-04"])
    assert unproven["lacking"] == 27


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
    assert boards["press-04"]["unproven"] == [{"task": "triage", "answered": 20, "more": 39, "lacking": 0}]
    assert boards["press-05"]["unproven"] == []


def test_each_board_says_how_many_checks_are_open() -> None:
    bench = Bench()
    bench.audit()
    assert bench.live.answers.checks.count_open("press-04") == 1
    assert bench.live.answers.checks.count_open("press-05") == 0


def test_a_check_that_its_board_no_longer_keeps_is_no_longer_offered() -> None:
    bench = Bench()
    bench.audit(number=1, ts="2026-11-28T09:00:00.000Z")
    kept = bench.audit(number=2, ts="2026-11-28T10:00:00.000Z")
    waits = {"asked": 2, "audits": 0, "open": 1, "open_since": "2026-11-28T10:00:00.100Z"}
    students = {"triage": {"student": "s"}}
    accuracy = {**answering.ACCURACY, "triage": waits}
    bench.board("press-04", health={"ts": "2026-11-28T10:00:01Z", "accuracy": accuracy, "students": students})
    assert bench.checks()["open"] == 2
    bench.board("press-04", health={"ts": "2026-11-28T10:00:02Z", "accuracy": accuracy})
    assert [check["key"] for check in bench.checks()["checks"]] == [kept]


@pytest.mark.parametrize("is_asked_anew", [False, True])
def test_checks_count_for_the_model_in_force_and_come_back_with_it(is_asked_anew: bool) -> None:  # noqa: FBT001
    bench, seconds = Bench(), itertools.count(10)

    def ask(model: str) -> str:
        return bench.audit(number=(at := next(seconds)), ts=f"2026-11-28T10:00:{at}Z", model={"sha256": model})

    def offered(model: str, waiting: list[str]) -> list[str]:
        """What the page offers once its board has said which model is in force and which audits wait."""
        since = f"2026-11-28T10:00:{10 + asked.index(waiting[0])}Z" if waiting else None
        figures = {"asked": len(waiting), "audits": 0, "open": len(waiting), "open_since": since}
        health = {"ts": f"2026-11-28T10:01:{next(seconds)}Z", "accuracy": {**answering.ACCURACY, "triage": figures}}
        bench.board("press-04", health=health, model=model)
        checks = bench.checks(shown=asked[0])
        assert (checks["closed"], checks["not_here"]) == (None if asked[0] in waiting else asked[0], [])
        return [check["key"] for check in checks["checks"]]

    asked = [ask("first") for _ in range(6)]
    assert offered("first", asked) == asked
    first = asked if is_asked_anew else []
    assert offered("second", first) == first
    asked += [ask("second") for _ in range(4)]
    second = asked if is_asked_anew else asked[6:]
    assert offered("second", second) == second
    first = asked if is_asked_anew else asked[:6]
    assert offered("first", first) == first
