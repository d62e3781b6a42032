"""Which answers the page keeps, finds and shows, and as what."""

from typing import Any

import pytest

from edge_agent.core.strict_json import encode
from edge_agent.core.topics import matches
from edge_agent.web import answers, checks
from edge_agent.web.marks import UNDO_S
from tests.web.answering import FEEDBACK, INPUT, LABELS, RESPONSE, TASKS, Bench


def test_an_answer_is_shown_with_its_score_and_can_be_marked() -> None:
    bench = Bench()
    bench.reply(number="reading-17", machine="M7", reading_topic="plant/M7/x")
    (row,) = bench.rows()
    assert [row[name] for name in ("device", "task", "kind", "id", "machine")] == [
        "press-04", "triage", "classify", "reading-17", "M7",
    ]  # fmt: skip
    assert (row["output"], row["score"], row["labels"]) == ("bearing fault", 0.97, LABELS)
    assert (row["is_open_audit"], row["can_mark"], row["mark"]) == (False, True, None)


def test_answers_without_their_reading_are_counted() -> None:
    bench = Bench()
    bench.reply(number=1)
    bench.reply("remark", number=2)
    bench.audit(number=3)
    for device, count in (("press-04", 1), ("press-05", 0)):
        document = bench.browser.get("/api/v1/answers", params={"device": device, "machine": "M7"}).json()
        assert document["without_input"] == count


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


def test_answers_about_machines_of_several_levels_are_heard() -> None:
    bench = Bench({"pump": {"kind": "classify", "labels": LABELS, "publish": "plant/{machine}/pump-state"}})
    for number, machine in enumerate(("p1", "node/p1", "group/node/p1")):
        topic = f"plant/{machine}/pump-state"
        assert any(matches(topic_filter, topic) for topic_filter in bench.live.answers.filters)
        bench.hear(topic, {"id": number, "status": "ok", "task": "pump", "device": "press-04", "output": "normal"})
        assert bench.rows()[0]["id"] == number


def test_what_a_board_names_makes_the_page_join_no_shared_subscription() -> None:
    """It would take a pool's requests away from its boards; a malformed one would end the connection."""
    bench = Bench()
    before = set(bench.live.answers.filters)
    patterns = ("$share/presses/edgeai/v1/hall1/pool/presses/infer/{1}/request", "$share/x", "$SYS/{1}")
    tasks = {f"t{number}": {**TASKS["label"], "publish": pattern} for number, pattern in enumerate(patterns)}
    bench.board("press-05", tasks=tasks)
    assert set(bench.live.answers.filters) == before


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
    monkeypatch.setattr(checks, "MAX_KEPT_OF_BOARD", 3)
    for number in range(5):
        bench.audit(number=f"q{number}")
    assert [check["id"] for check in bench.checks()["checks"]] == ["q2", "q3", "q4"]


def test_tasks_that_no_board_names_or_too_many_of_one_leave_no_trace() -> None:
    bench = Bench()
    bench.board("press-05", tasks={f"task-{number}": TASKS["triage"] for number in range(1000)})
    assert len(bench.browser.get("/api/v1/tasks").json()["targets"][1]["tasks"]) == 64
    bench.reply("forged", please_check=True)
    bench.reply(please_check=True)
    assert bench.checks()["reason_tasks"] == "triage"


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
    bench.tick(UNDO_S)
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
