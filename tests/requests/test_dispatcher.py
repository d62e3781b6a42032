"""The way of requests through the agent, with messages in, commands to the worker, and replies out.

`Desk.ask(..., at=t)` is a request that arrives at t; every other call takes its own `now`.
"""

import gc
import json
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.board.governor import Level, Limits
from edge_agent.core.clock import timestamp
from edge_agent.core.codes import Code
from edge_agent.core.kinds.classify import ClassifyTask
from edge_agent.core.pipe import Cancelled, Failed, Finish, Finished, OddField, Partial, Student, WorkerAnswer
from edge_agent.learning.learning import Learning
from edge_agent.learning.students import UNREACHABLE, StudentChoice
from edge_agent.requests import replies
from edge_agent.requests.answerers import Answer
from edge_agent.requests.quarantine import fingerprint
from edge_agent.requests.request import Request
from edge_agent.requests.score_maps import ScoreMaps
from edge_agent.requests.statistics import OddShare
from tests.helpers.support import (
    BASE,
    MODEL,
    REPLY_FIELDS,
    Desk,
    code_of,
    config,
    finished,
    inbound,
    labelled,
    message_of,
    ready,
)

RESPONSE = f"{BASE}/infer/generate/response"
SURE = labelled(1, normal=0.1, bearing_fault=0.9)
ODD_OIL = OddField(field="oil_c", value=1000, why="out-of-range", usual=(41.0, 88.0))
NO_HZ = OddField(field="hz", value=None, why="missing", usual=None)
HOT = Limits(
    level=Level.HOT, reason="it is hot", refusal_cause=Code.OVERHEATED, causes=(Code.OVERHEATED,), lowest_priority=-1
)


@pytest.mark.parametrize(
    ("payload", "fields", "identity"),
    [
        ({"input": "x", "id": "my id"}, {"correlation": b"other"}, "my id"),
        ("x", {"correlation": "Gerät 7".encode()}, "Gerät 7"),
        ("x", {"correlation": b"\xff\x00\x01"}, "ff0001"),
        # The property wins.
        ({"input": "x", "id": 1, "reply_to": "edgeai/v1/reply/b"}, {"response_topic": "edgeai/v1/reply/me"}, 1),
        # It is read even from what is refused, as far as it is right itself.
        ({"input": "x" * 70_000, "id": "mine"}, {}, "mine"),
        ({"input": "x", "id": ["a"], "reply_to": "edgeai/v1/reply/me"}, {"correlation": b"c"}, "c"),
        # Only an envelope has an id.
        ({"id": "a reading", "x": "x" * 70_000}, {"correlation": b"c"}, "c"),
        ({"input": "x" * 70_000, "id": "text"}, {"correlation": b"c", "content_type": "text/plain"}, "c"),
    ],
)
def test_the_id_is_the_envelopes_or_the_correlation(payload: Any, fields: dict[str, Any], identity: str | int) -> None:
    desk = Desk()
    desk.ask(payload, **fields)
    desk.dispatcher.on_worker_answer(finished(1), 1.0)
    assert desk.reply["id"] == identity
    assert desk.publication.correlation == fields.get("correlation")
    to_me = isinstance(payload, dict) and "reply_to" in payload
    assert desk.publication.topic == ("edgeai/v1/reply/me" if to_me else RESPONSE)
    assert (desk.publication.qos, desk.publication.retain) == (1, False)
    assert desk.publication.content_type == "application/json"


@pytest.mark.parametrize("correlation", [None, b""])
def test_without_both_an_id_is_made_up_each_time(correlation: bytes | None) -> None:
    desk = Desk(slots=0)
    for payload in "xyz":
        desk.ask(payload, task="nosuch", correlation=correlation)
    ids = {reply["id"] for reply in desk.replies}
    assert len(ids) == 3
    assert all(isinstance(one, str) and one for one in ids)
    assert {publication.correlation for publication in desk.publications} == {correlation}


def test_the_allow_list_of_reply_topics_is_that_of_the_configuration() -> None:
    desk = Desk('[mqtt]\nreply_topics = ["plant/answers/#"]\n')
    desk.ask("x", response_topic="plant/answers/1")
    desk.ask("x", response_topic="edgeai/v1/reply/me")
    desk.dispatcher.on_worker_answer(finished(1), 1.0)
    told = [(one.topic, reply["status"]) for one, reply in zip(desk.publications, desk.documents, strict=True)]
    assert told == [(RESPONSE, "invalid"), ("plant/answers/1", "ok")]


BARE_TASK = """
[tasks.t]
kind = "classify"
labels = ["a", "b"]
min_score = 0.8
reply = "output"
subscribe = ["plant/+/x"]
publish = "plant/{1}/y"
"""


def test_a_full_reply_has_the_input_as_the_task_got_it() -> None:
    desk = Desk(tasks=f'{BARE_TASK}echo_input = "all"\n', slots=9)
    for _ in range(2):
        desk.ask({"input": [7, "x"], "id": 1}, task="t")
    desk.receive(inbound("plant/7/x", '{"hz": 50}'), 0.0)
    desk.ask({"input": "x", "deadline_ms": 1}, task="t")
    desk.dispatcher.on_worker_answer(labelled(1, a=0.9, b=0.1), 0.0)
    desk.dispatcher.on_worker_answer(labelled(2, a=0.6, b=0.4), 0.0)  # unsure
    desk.dispatcher.expire_overdue(0.1)
    desk.ask({"input": [7, "x"], "id": 1}, task="t")
    desk.ask({"input": "x", "priority": 12}, task="t")
    assert [reply["input"] for reply in desk.replies[:-1]] == [[7, "x"], [7, "x"], {"hz": 50}, "x", [7, "x"]]
    assert "input" not in desk.replies[-1]  # it could not be read
    assert [reply.get("topic") for reply in desk.replies] == [None, None, "plant/7/x", None, None, None]


def test_only_audits_have_the_input_if_the_task_says_so() -> None:
    desk = Desk(tasks=f'{BARE_TASK}echo_input = "audits"\n', slots=9)
    for please_check in (False, True):
        asks = Answer(SURE, "a", please_check=please_check)
        desk.dispatcher.admission.answerers.final_answer = lambda *_, asks=asks: asks  # type: ignore[method-assign]
        desk.ask({"input": "x"}, task="t")
        desk.dispatcher.on_worker_answer(replace(SURE, id=desk.runs[-1].id), 0.0)
    assert [reply.get("input") for reply in desk.replies] == [None, "x"]


def test_a_reply_says_that_a_promise_withholds_its_output() -> None:
    desk = Desk(tasks=BARE_TASK)
    withheld = Answer(SURE, None, is_unproven=True)
    desk.dispatcher.admission.answerers.final_answer = lambda *_: withheld  # type: ignore[method-assign]
    desk.ask({"input": "x"}, task="t")
    desk.dispatcher.on_worker_answer(replace(SURE, id=desk.runs[-1].id), 0.0)
    assert desk.replies[0]["degraded"] == ["unsure", "promise-unproven"]


def test_what_has_no_output_goes_whole_to_the_error_topic() -> None:
    response, error = f"{BASE}/infer/t/response", f"{BASE}/infer/t/error"
    desk = Desk(tasks=BARE_TASK)
    desk.receive(inbound("plant/7/x", "7"), 0.0)
    desk.dispatcher.on_worker_answer(labelled(1, a=0.6, b=0.4), 1.0)  # unsure
    desk.ask(b"{", task="t", correlation=b"c", response_topic="edgeai/v1/reply/me")
    desk.ask("7", task="t", response_topic="elsewhere")
    desk.ask({"input": "7", "options": {"seed": -1}}, task="t")
    desk.ask("7", task="nosuch")
    found = [(one.topic, one.correlation) for one in desk.publications]
    assert found[:3] == [(error, None), (error, b"c"), (error, None)]
    assert found[3:] == [(response, None), (f"{BASE}/infer/nosuch/response", None)]
    assert set(desk.replies[0]) == REPLY_FIELDS | {"reply_to", "topic"}
    assert desk.replies[0]["topic"] == "plant/7/x"
    assert all(set(reply) == REPLY_FIELDS | {"reply_to"} for reply in desk.replies[1:3])
    assert all(set(reply) == REPLY_FIELDS for reply in desk.replies[3:])
    assert [reply["reply_to"] for reply in desk.replies[:3]] == ["plant/7/y", "edgeai/v1/reply/me", response]
    assert [reply["status"] for reply in desk.replies] == ["ok", *4 * ["invalid"]]
    assert desk.replies[0]["degraded"] == ["unsure"]


def test_a_client_with_one_topic_gets_a_word_for_each_reply_without_an_output_but_not_for_a_superseded_one() -> None:
    desk = Desk(tasks=f'{BARE_TASK}no_output = "unknown"\nkeep = "latest"\n')
    desk.receive(inbound("plant/7/x", "7"), 0.0)
    desk.dispatcher.on_worker_answer(labelled(1, a=0.6, b=0.4), 1.0)  # unsure
    desk.ask(b"{", task="t", correlation=b"c", response_topic="edgeai/v1/reply/me")
    desk.ask({"input": "7", "options": {"seed": -1}}, task="t")
    for payload in "789":  # the second waits until the third replaces it
        desk.receive(inbound("plant/7/x", payload), 2.0)
    desk.dispatcher.expire_overdue(99.0)
    error, mine, plant = f"{BASE}/infer/t/error", "edgeai/v1/reply/me", "plant/7/y"
    found = [(one.topic, one.correlation, len(one.payload) > 20 or one.payload) for one in desk.publications]
    assert found == [
        *((error, None, True), (plant, None, b"unknown")),
        *((error, b"c", True), (mine, b"c", b"unknown")),
        (f"{BASE}/infer/t/response", None, True),
        (error, None, True),
        *(2 * [(error, None, True), (plant, None, b"unknown")]),
    ]
    codes = [reply["error"] and reply["error"]["code"] for reply in _whole(desk)]
    assert codes == [None, "bad_json", "bad_field", "superseded", "deadline", "deadline"]


def _whole(desk: Desk) -> list[dict[str, Any]]:
    return [json.loads(one.payload) for one in desk.publications if one.content_type == "application/json"]


def test_a_template_that_names_the_topic_makes_another_request_of_the_same_reading_elsewhere() -> None:
    desk = Desk(
        tasks="""
[tasks.t]
kind = "generate"
template = "{{ topic }} hears {{ input }}"
subscribe = ["plant/+/x"]
"""
    )
    for topic in ("plant/1/x", "plant/2/x", "plant/2/x"):
        desk.receive(inbound(topic, "7", correlation=b"c"))
    desk.receive(replace(inbound("plant/3/x", "7"), machine="pump-3"))  # as if the board had joined it
    for number in (1, 2, 3):
        desk.dispatcher.on_worker_answer(finished(number), 1.0)
    told = [run.messages[-1].content for run in desk.runs]
    assert told == ["plant/1/x hears 7", "plant/2/x hears 7", "pump-3 hears 7"]
    assert [reply["repeat"] for reply in desk.replies] == [False, False, True, False]


class TestRefusals:
    @pytest.mark.parametrize("payload", [b'{"input": {"a": [{"b": 3}]}, "id": []}', b"{x", b"x" * 70_000])
    def test_the_message_of_a_refused_request_is_freed_at_once(self, payload: bytes) -> None:
        """It is not left to the garbage collector, because until that runs, a faster flood would hold more memory."""
        desk = Desk()
        desk.ask(payload)
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                desk.ask(payload)
            assert gc.collect() < 100
        finally:
            gc.enable()

    def test_a_payload_of_the_largest_size_is_taken(self) -> None:
        desk = Desk("[queue]\nmax_payload_bytes = 10\n", tasks="[tasks.s]\nkind = 'generate'\nmax_payload_bytes = 9\n")
        desk.ask("x" * 10)
        desk.ask("x" * 9, task="s")
        assert desk.publications == []
        desk.ask("x" * 11)
        desk.ask("x" * 10, task="s")
        assert [message_of(reply) for reply in desk.replies] == [
            "payload: should be at most 10 bytes (got 11)", "payload: should be at most 9 bytes (got 10)",
        ]  # fmt: skip

    def test_a_chat_model_is_not_asked_without_the_fields_that_the_task_requires(self) -> None:
        desk = Desk(tasks=f'{BARE_TASK}required = ["hz", "motor.rpm"]\n', slots=9)
        full = {"motor": {"rpm": 0}, "hz": "50", "note": ""}
        lacking: tuple[Any, ...] = (
            {},
            "50",
            [50],
            {"hz": None, "motor": {"rpm": 1}},
            {"hz": 50, "motor": {"rpm": " "}},
        )
        for number, value in enumerate((full, *lacking)):
            desk.ask({"input": value, "id": number}, task="t")
        assert len(desk.runs) == 1
        assert {code_of(reply) for reply in desk.replies} == {"bad_field"}
        wanted = [message_of(reply).split(",", 1)[0].removeprefix("input: should have ") for reply in desk.replies]
        assert wanted == ["hz", "hz", "hz", "hz", "motor.rpm"]
        assert message_of(desk.replies[3]).endswith(
            'hz, because of `tasks.t.required` (got {"hz": null, "motor": {"rpm": 1}})'
        )
        desk.dispatcher.on_model_replaced(replace(MODEL, reads_fields=True))  # says itself what is missing
        desk.ask({"input": {}, "id": 0}, task="t")
        assert len(desk.runs) == 2

    def test_a_displaced_request_gets_busy_at_once(self) -> None:
        desk = Desk("[queue]\ncapacity = 1\n")
        for name, priority in (("running", 5), ("lax", 6), ("urgent", 0)):
            desk.ask({"input": "x", "id": name, "priority": priority})
        assert desk.statuses() == [("lax", "busy")]
        assert desk.dispatcher.as_health(9.0)["queue"]["displaced_total"] == 1


TIMED = """
[tasks.timed]
kind = "generate"
deadline_ms = 8000
time = ["d", 0]
subscribe = ["plant/+/t"]
"""


class TestDeadlines:
    @pytest.mark.parametrize(
        ("task", "envelope", "expiry_s", "configured", "told"),
        [
            ("generate", {"deadline_ms": 1000}, None, "", "1000 ms (request)"),
            ("urgent", {}, None, "", "2000 ms (task)"),
            ("generate", {}, None, "[queue]\ndefault_deadline_ms = 1500\n", "1500 ms (configuration)"),
            ("generate", {}, None, "", "60000 ms (configuration)"),
            ("generate", {"deadline_ms": 9000}, 3, "", "3000 ms (message expiry)"),
            ("generate", {"deadline_ms": 5000}, 7, "", "5000 ms (request)"),
            ("urgent", {"deadline_ms": 5000}, None, "", "5000 ms (request)"),
            ("urgent", {}, 1, "", "1000 ms (message expiry)"),
        ],
    )
    def test_an_expired_reply_names_the_deadline_and_its_source(
        self, task: str, envelope: dict[str, Any], expiry_s: int | None, configured: str, told: str
    ) -> None:
        desk = Desk(configured)
        desk.ask({"input": "x", **envelope}, task=task, at=100.0, expiry_s=expiry_s)
        assert desk.dispatcher.next_wake_up_at() == 100.0 + int(told.split(maxsplit=1)[0]) / 1000
        desk.dispatcher.expire_overdue(160.0)
        assert message_of(desk.reply) == f"the deadline of {told} has passed"

    def test_an_input_that_says_when_it_was_measured_has_only_the_rest_of_the_time(self) -> None:
        now = time.monotonic()
        measured = time.time() - 5
        payloads: list[tuple[Any, str]] = [
            ({"d": [measured]}, "d[0]"),
            ({"d": [measured * 1000]}, "d[0]"),
            ({"d": [timestamp(measured)]}, "d[0]"),
            ({"input": {"d": [f"{measured}"]}}, "input.d[0]"),
            ({"input": "x", "ts": timestamp(measured)}, "ts"),
            ({"input": {"d": [measured - 60]}, "ts": measured}, "ts"),
        ]
        for payload, field in payloads:
            desk = Desk(tasks=TIMED)
            desk.ask(payload, task="timed", at=now)
            assert desk.dispatcher.next_wake_up_at() == pytest.approx(now + 3, abs=0.1)
            desk.dispatcher.expire_overdue(now + 4)
            assert message_of(desk.reply) == f"the deadline of 8000 ms (task) since its `{field}` has passed"
        desk = Desk(tasks=TIMED)
        desk.receive(inbound("plant/1/t", {"d": [measured - 4]}, at=now), now)
        assert message_of(desk.reply) == "the deadline of 8000 ms (task) since its `d[0]` has passed"
        desk.receive(inbound("plant/1/t", {"d": [measured]}, at=now, expiry_s=1), now)
        assert desk.dispatcher.next_wake_up_at() == now + 1

    @pytest.mark.parametrize(
        "payload",
        [
            {"d": [time.time() + 3600]},  # the sensor's clock is fast
            {"d": [0]},  # and this one was never set
            {"d": ["1970-01-01T00:00:07Z"]},
            {"d": [None]},
            {"d": []},
            {"d": {"0": 1}},
            {"d": "2026-01-01T00:00:00Z"},
            "text",
            [1],
            {"input": "x", "ts": None},
            {"input": "x", "ts": "noon"},
            {"input": "x", "ts": {"of": "a caller's own"}},
        ],
    )
    def test_where_no_true_time_is_said_the_deadline_counts_from_the_arrival(self, payload: Any) -> None:
        desk = Desk(tasks=TIMED)
        desk.ask(payload, task="timed", at=(now := time.monotonic()))
        assert desk.dispatcher.next_wake_up_at() == now + 8

    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            ({"d": ["2026-11-30T12:00:00"]}, "d[0]"),
            ({"d": [True]}, "d[0]"),
            ({"d": [{}]}, "d[0]"),
            ({"input": {"d": ["noon"]}}, "input.d[0]"),
        ],
    )
    def test_a_time_that_is_none_is_named(self, payload: dict[str, Any], field: str) -> None:
        desk = Desk(tasks=TIMED)
        desk.ask(payload, task="timed")
        assert code_of(desk.reply) == "bad_field"
        assert message_of(desk.reply).startswith(f"{field}: should be a time with an offset, such as 2027-06-30T12")

    def test_a_request_that_expires_while_running_is_cancelled_and_answered_once(self) -> None:
        desk = Desk()
        desk.ask({"input": "x", "id": "a", "deadline_ms": 1000, "stream": True})
        desk.dispatcher.expire_overdue(1.0)
        desk.dispatcher.expire_overdue(1.1)
        desk.dispatcher.send_partial(Partial(id=1, delta="late"))
        assert desk.cancels == [1]
        assert desk.statuses() == [("a", "expired")]
        assert desk.dispatcher.next_wake_up_at() is None
        desk.dispatcher.on_worker_answer(Cancelled(id=1), 1.2)
        assert desk.statuses() == [("a", "expired")]
        assert desk.dispatcher.is_idle

    def test_the_slot_of_an_expired_request_is_free_when_the_worker_has_stopped_it(self) -> None:
        desk = Desk()
        desk.ask({"input": "x", "deadline_ms": 1000})
        desk.ask("y")
        desk.dispatcher.expire_overdue(1.0)
        desk.dispatcher.fill_slots(1.0)
        assert len(desk.runs) == 1
        desk.dispatcher.on_worker_answer(Cancelled(id=1), 1.1)
        assert [run.id for run in desk.runs] == [1, 2]

    def test_an_answer_after_the_deadline_is_expired(self) -> None:
        desk = Desk()
        desk.ask({"input": "x", "id": "a", "deadline_ms": 1000})
        desk.dispatcher.on_worker_answer(finished(1), 1.001)
        assert desk.statuses() == [("a", "expired")]
        assert desk.dispatcher.is_idle


def test_the_tasks_priority_counts_unless_the_envelope_says_otherwise() -> None:
    desk = Desk(slots=0)
    desk.ask("5")
    desk.ask({"input": "9", "priority": 9}, task="urgent")
    desk.ask("1", task="urgent")
    desk.start_worker(3)
    assert [run.messages[0].content for run in desk.runs] == ["1", "5", "9"]


def test_a_newer_reading_supersedes_the_one_of_its_source_that_waits() -> None:
    desk = Desk()
    desk.ask({"input": "running", "id": "running"}, task="newest")
    desk.ask({"input": "x", "id": "elsewhere", "reply_to": "edgeai/v1/reply/me"}, task="newest")
    for name in ("old", "newer", "newest"):
        desk.ask({"input": name, "id": name}, task="newest")
    assert desk.statuses() == [("old", "cancelled"), ("newer", "cancelled")]
    assert {code_of(reply) for reply in desk.replies} == {"superseded"}
    for number in (1, 2):
        desk.dispatcher.on_worker_answer(finished(number), 1.0)
    assert desk.runs[-1].messages[0].content == "newest"


class TestDuplicates:
    def test_one_inference_serves_both_while_the_first_runs_or_waits(self) -> None:
        for slots in (1, 0):
            desk = Desk(slots=slots)
            desk.ask({"input": "x", "id": "a"})
            desk.ask({"input": "x", "id": "a"}, at=1.0)
            desk.start_worker(1, 1.0)
            desk.dispatcher.on_worker_answer(finished(1), 2.0)
            assert [(r["id"], r["status"], r["output"], r["repeat"]) for r in desk.replies] == [
                ("a", "ok", "fine", False),
                ("a", "ok", "fine", True),
            ]
            assert len(desk.runs) == 1
            assert desk.dispatcher.as_health(9.0)["queue"]["duplicates_total"] == 1

    @pytest.mark.parametrize(
        "fields",
        [
            {"payload": {"input": 5, "id": "a"}},
            {"payload": "{broken", "correlation": b"a"},
            {"payload": b"\xff", "correlation": b"a"},
            {"payload": {"input": "x", "id": "a"}, "task": "nosuch"},
            {"payload": {"input": "x", "id": "a"}, "response_topic": "elsewhere"},
            {"payload": {"input": {"rpm": 1}, "id": "a"}, "task": "vibration"},
            # It is a redelivery without a correlation of its client.
            {"payload": b"", "duplicate": True},
        ],
    )
    def test_a_refusal_is_given_again(self, fields: dict[str, Any]) -> None:
        desk = Desk()
        desk.ask(**fields)
        desk.ask(**fields, at=1.0)
        first, second = desk.replies
        assert first["status"] == "invalid"
        assert second == {**first, "repeat": True, "ts": second["ts"]}
        assert desk.dispatcher.as_health(9.0)["queue"]["duplicates_total"] == 1

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({"payload": "x", "correlation": b"1"}, {"payload": "y", "correlation": b"1"}),
            ({"payload": "x", "correlation": b"1"}, {"payload": "x", "correlation": b"2"}),
            ({"payload": "x", "correlation": b"1"}, {"payload": "x", "correlation": b"1", "task": "urgent"}),
            (
                {"payload": "x", "correlation": b"1"},
                {"payload": "x", "correlation": b"1", "response_topic": "edgeai/v1/reply/me"},
            ),
            ({"payload": "x"}, {"payload": "x"}),
        ],
    )
    def test_what_differs_in_anything_is_not_a_duplicate(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        desk = Desk(slots=2)
        desk.ask(**first)
        desk.ask(**second)
        assert len(desk.runs) == 2

    def test_a_redelivery_is_answered_once_and_keeps_the_first_arrival(self) -> None:
        desk = Desk()
        desk.ask({"input": "x", "id": "a", "deadline_ms": 1000})
        desk.dispatcher.admission.is_draining = True
        desk.ask({"input": "x", "id": "a", "deadline_ms": 1000}, at=0.9, duplicate=True)
        desk.dispatcher.expire_overdue(1.0)
        assert desk.statuses() == [("a", "expired")]


class TestAnswers:
    def test_an_answer_reads_as_in_the_contract(self) -> None:
        desk = Desk()
        desk.dispatcher.joules_per_busy_s = 5.25
        desk.ask({"input": "ü轴", "id": 7}, task="triage", at=1.0)
        desk.dispatcher.on_worker_answer(
            replace(labelled(1, normal=0.07, bearing_fault=0.93), started_at=1.0012345), 1.15629
        )
        payload = desk.publication.payload
        assert b", " not in payload, "replies are compact"
        document = json.loads(payload)
        assert set(document) == REPLY_FIELDS
        assert (document["id"], document["output"], document["error"]) == (7, "bearing fault", None)
        assert document["scores"] == {"normal": 0.07, "bearing fault": 0.93}
        assert document["model"] == {"name": "default", "sha256": "5ha", "quantization": "Q8_0"}
        assert document["usage"] == {
            "prompt_tokens": 20, "cached_tokens": 15, "completion_tokens": 0, "energy_j": 0.525,
        }  # fmt: skip
        assert document["timing"] == {
            "queued_ms": 1.2, "prefill_ms": 150.0, "decode_ms": 50.0, "total_ms": 156.3, "batch": 2,
        }  # fmt: skip

    def test_one_that_arrives_during_a_turn_has_waited_no_time(self) -> None:
        desk = Desk()
        desk.receive(inbound(f"{BASE}/infer/generate/request", "{", at=1.0003), now=1.0)
        assert desk.reply["timing"]["total_ms"] == 0.0

    @pytest.mark.parametrize(
        ("task", "event", "output", "degraded"),
        [
            ("careful", labelled(1, normal=0.2001, bearing_fault=0.7999), None, ["unsure"]),
            ("careful", labelled(1, normal=0.2, bearing_fault=0.8), "bearing fault", []),
            # The input is unlike training, however sure its label is.
            ("careful", replace(SURE, unlike=0.1), None, ["unsure", "unlike-training"]),
            ("careful", replace(SURE, unlike=-0.1), "bearing fault", []),
            ("careful", replace(SURE, odd_fields=(ODD_OIL, NO_HZ)), None, ["unsure", "out-of-range", "missing-fields"]),
            (
                "bold",
                replace(SURE, odd_fields=(ODD_OIL,), unlike=1.0),
                "bearing fault",
                ["unlike-training", "out-of-range"],
            ),
            ("generate", finished(1, unlike=0.1), None, ["unsure", "unlike-training"]),
        ],
    )
    def test_below_min_score_and_where_the_input_is_unlike_training_an_answer_is_unsure(
        self, task: str, event: Finished, output: str | None, degraded: list[str]
    ) -> None:
        desk = Desk()
        desk.ask("hums", task=task)
        desk.dispatcher.on_worker_answer(event, 1.0)
        assert (desk.reply["status"], desk.reply["output"], desk.reply["degraded"]) == ("ok", output, degraded)
        assert desk.reply["scores"] == event.scores

    def test_fields_that_are_as_in_no_row_of_the_training_are_named(self) -> None:
        desk = Desk()
        for event in (SURE, replace(SURE, id=2, odd_fields=(ODD_OIL, NO_HZ))):
            desk.ask(f"hums {event.id}", task="careful")
            desk.dispatcher.on_worker_answer(event, 1.0)
        hot, missing = (
            {"field": "oil_c", "value": 1000, "usual": [41.0, 88.0]},
            {"field": "hz", "value": None, "usual": None},
        )
        assert [reply["fields"] for reply in desk.replies] == [None, [hot, missing]]

    def test_scores_are_those_of_the_most_probable_labels(self) -> None:
        labels = 'kind = "classify"\nlabels = ["a", "b", "c"]\n'
        desk = Desk(tasks=f"[tasks.all]\n{labels}[tasks.two]\n{labels}top_scores = 2\nmin_score = 0.9\n")
        for number, wanted in ((1, {"a": 0.2, "b": 0.1, "c": 0.7}), (2, {"c": 0.7, "a": 0.2})):
            desk.ask("x", task=("all", "two")[number - 1])
            desk.dispatcher.on_worker_answer(labelled(number, a=0.2, b=0.1, c=0.7), 1.0)
            assert list(desk.replies[-1]["scores"].items()) == list(wanted.items())

    def test_rounded_scores_of_many_labels_still_sum_to_one(self) -> None:
        labels = [f"l{n}" for n in range(200)]
        desk = Desk(tasks=f'[tasks.many]\nkind = "classify"\nlabels = {json.dumps(labels)}\n')
        desk.ask("x", task="many")
        desk.dispatcher.on_worker_answer(labelled(1, **dict.fromkeys(labels, 1 / 200)), 1.0)
        assert sum(desk.reply["scores"].values()) == pytest.approx(1, abs=0.001)
        assert len(desk.reply["scores"]) == 200

    @pytest.mark.parametrize("reasoning", ["drop", "include"])
    def test_the_reasoning_is_in_the_reply_only_on_request(self, reasoning: str) -> None:
        desk = Desk()
        desk.ask({"input": "x", "options": {"reasoning": reasoning}})
        desk.dispatcher.on_worker_answer(finished(1, reasoning="hm"), 1.0)
        assert desk.reply["reasoning"] == ("hm" if reasoning == "include" else None)
        assert desk.reply["output"] == "fine"

    @pytest.mark.parametrize(
        ("event", "status", "code"),
        [
            (Failed(id=1, code=Code.TOO_LONG, message="m"), "invalid", "too_long"),
            (Failed(id=1, code=Code.BAD_FIELD, message="m"), "invalid", "bad_field"),
            (Failed(id=1, code=Code.NO_VALID_OUTPUT, message="m"), "failed", "no_valid_output"),
            (Failed(id=1, code=Code.INTERNAL, message="m"), "failed", "internal"),
            (Cancelled(id=1), "failed", "internal"),
        ],
    )
    def test_other_ends_have_their_codes(self, event: Any, status: str, code: str) -> None:
        desk = Desk()
        desk.ask({"input": "x", "id": "a"})
        desk.dispatcher.on_worker_answer(event, 1.0)
        assert (desk.reply["status"], code_of(desk.reply)) == (status, code)
        assert set(desk.reply) == REPLY_FIELDS
        counted = desk.dispatcher.as_health(1.0)["inference"]
        assert (counted["invalid_total"], counted["failed_total"]) == ((1, 0) if status == "invalid" else (0, 1))
        assert desk.dispatcher.is_idle

    def test_failures_count_in_a_row_until_an_answer(self) -> None:
        desk = Desk()
        ends = [Code.INTERNAL, Code.TOO_LONG, Code.INTERNAL, None, Code.INTERNAL]
        rows = []
        for number, code in enumerate(ends, start=1):
            desk.ask({"input": "x", "id": number})
            desk.dispatcher.on_worker_answer(
                finished(number) if code is None else Failed(id=number, code=code, message=f"fault {number}"), 1.0
            )
            rows.append((desk.dispatcher.replies.failed_in_a_row, desk.dispatcher.replies.last_failure))
        assert rows == [(1, "fault 1"), (1, "fault 1"), (2, "fault 3"), (0, "fault 3"), (1, "fault 5")]

    @pytest.mark.expects_warning
    def test_an_answer_that_cannot_be_read_is_our_failure(self) -> None:
        desk = Desk()
        desk.ask({"input": "x", "id": "a"}, task="report")
        desk.dispatcher.on_worker_answer(finished(1, finish=Finish.SCHEMA, text="{broken"), 1.0)
        assert (desk.reply["status"], code_of(desk.reply)) == ("failed", "internal")


def test_partials_come_before_the_end_on_the_same_topic() -> None:
    desk = Desk()
    desk.ask({"input": "x", "id": "a", "stream": True}, response_topic="edgeai/v1/reply/me", correlation=b"c")
    assert desk.runs[0].stream
    for delta in ("Lager ", "prüfen"):
        desk.dispatcher.send_partial(Partial(id=1, delta=delta))
    desk.dispatcher.on_worker_answer(finished(1), 1.0)
    assert [json.loads(p.payload) for p in desk.publications[:2]] == [
        {"id": "a", "task": "generate", "status": "partial", "seq": 0, "delta": "Lager "},
        {"id": "a", "task": "generate", "status": "partial", "seq": 1, "delta": "prüfen"},
    ]
    assert [p.qos for p in desk.publications] == [0, 0, 1]
    assert {(p.topic, p.correlation) for p in desk.publications} == {("edgeai/v1/reply/me", b"c")}


class TestLostWorkers:
    def test_a_newcomer_that_cannot_wait_for_the_next_worker_is_refused(self) -> None:
        desk = Desk()
        desk.dispatcher.on_worker_lost("killed", 1.0, ready_at=5.0)
        desk.ask({"input": "z", "id": "new", "deadline_ms": 1000}, at=3.0)
        assert desk.statuses() == [("new", "busy")]
        assert code_of(desk.reply) == "loading"
        assert "for about 2.0 s more, too late for the deadline of 1000 ms (request)" in message_of(desk.reply)
        assert desk.reply["error"]["retry_after_s"] >= 2.0
        desk.ask({"input": "z", "id": "late", "deadline_ms": 1000}, at=5.5)
        assert len(desk.replies) == 1, "the worker may be ready at any moment"

    def test_a_stream_that_had_begun_is_not_sent_twice(self) -> None:
        desk = Desk()
        desk.ask({"input": "x", "id": 1, "stream": True})
        desk.dispatcher.send_partial(Partial(id=1, delta="fi"))
        desk.dispatcher.on_worker_lost("killed", 1.0)
        desk.start_worker(1, 2.0)
        assert [run.stream for run in desk.runs] == [True, False]

    def test_a_newer_reading_supersedes_all_that_wait_to_run_again(self) -> None:
        desk = Desk(slots=3)
        for number in (1, 2):
            desk.ask({"input": f"reading {number}", "id": number}, task="newest")
        desk.dispatcher.on_worker_lost("killed", 2.0)
        desk.ask({"input": "reading 3", "id": 3}, task="newest", at=2.0)
        assert desk.statuses() == [(1, "cancelled"), (2, "cancelled")]

    def test_without_a_worker_to_come_everything_that_waits_is_answered(self) -> None:
        desk = Desk(slots=0)
        for number in range(3):
            desk.ask({"input": "x", "id": number})
        desk.dispatcher.give_up("the model cannot be loaded", 1.0)
        desk.ask({"input": "x", "id": 3}, at=2.0)
        assert desk.statuses() == [(0, "failed"), (1, "failed"), (2, "failed"), (3, "busy")]
        assert (code_of(desk.replies[-1]), message_of(desk.replies[-1])) == ("loading", "the model cannot be loaded")
        assert desk.dispatcher.is_idle

    @pytest.mark.expects_warning
    def test_a_request_that_cannot_be_sent_to_the_worker_is_answered_and_holds_no_slot(self) -> None:
        def refuse(_command: object) -> None:
            raise ValueError("no such character")

        desk = Desk()
        desk.dispatcher._send = refuse
        desk.ask({"input": "x", "id": 1})
        assert desk.statuses() == [(1, "failed")]
        assert desk.dispatcher.is_idle


class TestRates:
    def test_a_reply_topic_has_a_rate_limit_of_its_own(self) -> None:
        desk = Desk("[queue]\nrate_per_minute = 2\n", tasks="[tasks.slow]\nkind = 'generate'\nrate_per_minute = 4\n")
        for name, who in (("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 2), ("f", 2)):
            desk.ask({"input": "x", "id": name, "reply_to": f"edgeai/v1/reply/{who}"}, task="slow")
        assert [(reply["id"], code_of(reply)) for reply in desk.replies] == [
            ("c", "rate_limited"),
            ("d", "rate_limited"),
        ]
        assert "reply topic: at most 2" in message_of(desk.replies[0])

    def test_a_rate_limited_request_is_not_rendered_and_a_rendered_one_counts(self) -> None:
        desk = Desk(tasks="[tasks.slow]\nkind = 'generate'\ntemplate = '{{ input.rpm }}'\nrate_per_minute = 2\n")
        asked: list[object] = []

        def counted(request: Request, template: str, value: object) -> None:
            asked.append(value)
            desk.render(request, template, value)

        desk.dispatcher.admission._ask_renderer = counted
        desk.ask({"input": {"hz": 1}}, task="slow")
        desk.ask({"input": {"rpm": 1}, "deadline_ms": 1}, task="slow")
        desk.ask({"input": {"rpm": 1}, "deadline_ms": 1}, task="slow")
        desk.ask({"input": {"hz": 1}}, task="slow")
        assert [code_of(reply) for reply in desk.replies] == ["bad_field", "rate_limited", "rate_limited"]
        assert len(asked) == 2


class TestRendering:
    """Only the requests of its task wait for a template that takes long."""

    TASK = "[queue]\ncapacity = 2\n[tasks.slow]\nkind = 'generate'\ntemplate = 'text {{ input }}'\n"

    def desk(self) -> Desk:
        desk = Desk(tasks=self.TASK, slots=2)
        self.asked: list[tuple[Request, str, object]] = []
        desk.dispatcher.admission._ask_renderer = lambda *asked: self.asked.append(asked)
        return desk

    def test_another_request_is_answered_meanwhile_and_it_runs_once_its_text_is_there(self) -> None:
        desk = self.desk()
        desk.ask({"input": "x", "id": "slow"}, task="slow")
        desk.ask({"input": "y", "id": "quick"})
        assert [run.messages[-1].content for run in desk.runs] == ["y"]
        assert (desk.dispatcher.waiting, desk.dispatcher.is_idle) == (1, False)
        desk.render(*self.asked[0])
        assert [run.messages[-1].content for run in desk.runs] == ["y", "text x"]

    def test_it_expires_and_is_cancelled_as_one_that_waits_and_then_its_text_is_dropped(self) -> None:
        desk = self.desk()
        desk.ask({"input": "x", "id": "late", "deadline_ms": 500}, task="slow")
        desk.ask({"input": "x", "id": "cancelled"}, task="slow")
        assert desk.dispatcher.next_wake_up_at() == 0.5
        desk.dispatcher.expire_overdue(0.5)
        assert desk.dispatcher.cancel("by command", 0.6, request_id="cancelled") == 1
        for asked in self.asked:
            desk.render(*asked)
        assert desk.statuses() == [("late", "expired"), ("cancelled", "cancelled")]
        assert desk.dispatcher.is_idle
        assert desk.runs == []

    def test_an_equal_request_waits_for_the_same_answer(self) -> None:
        desk = self.desk()
        for _ in range(2):
            desk.ask({"input": "x", "id": 1}, task="slow")
        assert len(self.asked) == 1
        desk.render(*self.asked[0])
        desk.dispatcher.on_worker_answer(finished(1), 1.0)
        assert desk.statuses() == [(1, "ok"), (1, "ok")]

    def test_as_many_wait_for_it_as_the_queue_has_room_for(self) -> None:
        desk = self.desk()
        for number in range(3):
            desk.ask({"input": f"{number}", "id": number}, task="slow")
        assert [code_of(reply) for reply in desk.replies] == ["queue_full"]

    def test_a_more_urgent_request_takes_the_place_of_the_last_less_urgent_one(self) -> None:
        desk = self.desk()
        for number, priority in enumerate((6, 6, 0, 5, 5)):
            desk.ask({"input": f"{number}", "id": number, "priority": priority}, task="slow")
        assert [(reply["id"], code_of(reply)) for reply in desk.replies] == [
            (1, "queue_full"), (0, "queue_full"), (4, "queue_full"),
        ]  # fmt: skip
        assert message_of(desk.replies[0]).startswith("displaced by a more urgent request: 2 requests are")

    def test_a_newer_reading_that_needs_no_text_supersedes_it(self) -> None:
        desk = self.desk()
        desk.reconfigure("[tasks.slow]\nkind = 'generate'\ntemplate = 'text {{ input }}'\nkeep = 'latest'\n")
        desk.ask({"input": "x", "id": "older"}, task="slow")
        desk.reconfigure("[tasks.slow]\nkind = 'generate'\nkeep = 'latest'\n")
        desk.dispatcher.is_paused = True
        desk.ask({"input": "y", "id": "newer"}, task="slow")
        desk.render(*self.asked[0])
        assert desk.statuses() == [("older", "cancelled")]
        assert code_of(desk.reply) == "superseded"


class TestSuspects:
    """Requests that ran when a worker died."""

    def test_they_run_alone_the_second_time(self) -> None:
        desk = Desk(slots=3)
        for name in "abc":
            desk.ask({"input": name, "id": name})
        desk.dispatcher.on_worker_lost("killed", 1.0)
        desk.ask({"input": "new", "id": "new", "priority": 0}, at=1.0)
        desk.commands.clear()
        desk.start_worker(3, 2.0)
        order = []
        while desk.runs:
            running = desk.runs
            desk.commands.clear()
            order.append([run.messages[-1].content for run in running])
            for run in running:
                desk.dispatcher.on_worker_answer(finished(run.id), 3.0)

        assert order == [["new"], ["a"], ["b"], ["c"]]
        assert [status for _, status in desk.statuses()] == ["ok"] * 4

    @pytest.mark.expects_warning
    def test_one_that_ends_the_worker_again_is_quarantined_until_its_release(self) -> None:
        desk = Desk(slots=2)
        for name in "ab":
            desk.ask({"input": name, "id": name})
        for at in (1.0, 3.0):
            desk.dispatcher.on_worker_lost("killed", at)
            desk.start_worker(2, at + 1.0)
        desk.dispatcher.on_worker_answer(finished(2), 5.0)
        assert desk.statuses() == [("a", "failed"), ("b", "ok")]
        assert code_of(desk.replies[0]) == "engine_lost"
        assert "killed" in message_of(desk.replies[0])
        (held,) = desk.dispatcher.as_health(9.0)["quarantine"]
        one = desk.runs[0]
        assert (
            held["fingerprint"] == fingerprint(replace(one, id=2, max_tokens=7)) != fingerprint(replace(one, task="b"))
        )

        desk.commands.clear()
        desk.ask({"input": "a", "id": "again"}, at=6.0)
        assert (desk.replies[-1]["status"], code_of(desk.replies[-1])) == ("invalid", "quarantined")
        assert held["fingerprint"] in message_of(desk.replies[-1])
        assert desk.runs == []

        assert desk.dispatcher.admission.release_quarantined(held["fingerprint"])
        desk.ask({"input": "a", "id": "again"}, at=7.0)
        assert len(desk.runs) == 1


def test_the_requests_that_wait_for_the_answers_of_others_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_FOLLOWERS", 20)
    desk = Desk()
    for number in range(3):
        for _ in range(11):
            desk.ask(f"text {number}", correlation=b"c")
    assert {code_of(reply) for reply in desk.replies} == {"queue_full"}
    assert len(desk.replies) == 10
    for number in (1, 2, 3):
        desk.dispatcher.on_worker_answer(finished(number), 1.0)
    assert len(desk.replies) == 33
    desk.ask("another", correlation=b"c")
    desk.ask("another", correlation=b"c")
    assert len(desk.replies) == 33


def test_waiting_and_running_requests_are_cancelled() -> None:
    desk = Desk()
    desk.ask({"input": "x", "id": "elsewhere"})
    assert desk.dispatcher.cancel("", 0.0, request_id="elsewhere", reply_topic="edgeai/v1/reply/me") == 0
    assert desk.dispatcher.cancel("", 0.0, request_id="elsewhere", reply_topic=RESPONSE) == 1
    desk = Desk()
    desk.ask({"input": "x", "id": "a"})
    desk.ask({"input": "y", "id": "a"})
    desk.ask({"input": "z", "id": "b"})
    assert desk.dispatcher.cancel("cancelled by command", 1.0, request_id="a") == 2
    assert desk.statuses() == [("a", "cancelled"), ("a", "cancelled")]
    assert {code_of(reply) for reply in desk.replies} == {"cancelled"}
    assert desk.cancels == [1]
    desk.dispatcher.on_worker_answer(Cancelled(id=1), 1.1)
    assert desk.runs[-1].id == 3


class TestReadings:
    def test_a_bad_reading_is_answered_too(self) -> None:
        for payload in (b"", b"\xff", b"{x", b'{"rpm": 1}', b"x" * 70000):
            desk = Desk()
            desk.receive(inbound("plant/press4/vibration", payload), 0.0)
            assert desk.publication.topic == "plant/press4/triage"
            assert desk.reply["status"] == "invalid"

    def test_every_task_that_subscribes_gets_the_reading_once(self) -> None:
        desk = Desk(
            tasks="".join(f'[tasks.{name}]\nkind = "generate"\nsubscribe = ["plant/+"]\n' for name in ("a", "b")),
            slots=9,
        )
        desk.receive(inbound("plant/1", "x"), 0.0)
        assert [run.task for run in desk.runs] == ["a", "b"]

    def test_the_agents_own_messages_and_other_topics_are_no_readings(self) -> None:
        desk = Desk(tasks='[tasks.all]\nkind = "generate"\nsubscribe = ["+/+/+/+/infer/+/response"]\n')
        for topic in (f"{BASE}/infer/all/response", "plant/1/temperature", f"{BASE}/state"):
            desk.receive(inbound(topic, "x"), 0.0)
        assert (desk.runs, desk.publications) == ([], [])
        desk.receive(inbound(f"{BASE}2/infer/all/response", "an answer of another board"), 0.0)
        assert len(desk.runs) == 1

    # The last one is no topic at all.
    @pytest.mark.parametrize("level", ["edgeai/v1/x/y/cmd/drain", "a/request", "$SYS/x", ""])
    def test_a_wildcard_leads_no_reply_to_a_forbidden_topic(self, level: str) -> None:
        desk = Desk(tasks='[tasks.t]\nkind = "generate"\nsubscribe = ["sensors/#"]\npublish = "{1}"\n')
        desk.receive(inbound(f"sensors/{level}", "x"), 0.0)
        desk.dispatcher.on_worker_answer(finished(1), 1.0)
        assert desk.publication.topic == f"{BASE}/infer/t/response"


class TestReload:
    def test_new_tasks_and_limits_count_from_now_on(self) -> None:
        desk = Desk()
        desk.ask({"input": "x", "id": "old"}, task="urgent")
        desk.ask({"input": "y", "id": "waiting"}, task="urgent")
        desk.reconfigure('[queue]\ncapacity = 1\n[tasks.new]\nkind = "generate"\n')
        desk.ask({"input": "x", "id": "gone"}, task="urgent")
        desk.ask({"input": "x", "id": "full"}, task="new")
        assert desk.statuses() == [("gone", "invalid"), ("full", "busy")]
        desk.dispatcher.on_worker_answer(finished(1), 1.0)
        desk.dispatcher.on_worker_answer(finished(2), 1.0)
        assert desk.statuses()[2:] == [("old", "ok"), ("waiting", "ok")]

    def test_another_model_answers_anew(self) -> None:
        desk = Desk()
        desk.ask({"input": "long", "id": 1})
        desk.dispatcher.on_worker_answer(Failed(id=1, code=Code.TOO_LONG, message="it never fits the context"), 1.0)
        desk.ask({"input": "short", "id": 2}, at=1.0)
        desk.dispatcher.on_worker_answer(finished(2), 2.0)
        desk.dispatcher.on_model_replaced(replace(MODEL, sha256="other"))
        desk.ask({"input": "long", "id": 1}, at=3.0)
        desk.dispatcher.on_worker_answer(finished(3), 4.0)
        desk.ask({"input": "short", "id": 2}, at=4.0)
        desk.dispatcher.on_worker_answer(finished(4), 5.0)
        desk.ask({"input": "short", "id": 2}, at=5.0)
        told = [(reply["id"], reply["status"], reply["repeat"]) for reply in desk.replies]
        assert told == [(1, "invalid", False), (2, "ok", False), (1, "ok", False), (2, "ok", False), (2, "ok", True)]


def test_the_wait_of_the_next_one_is_estimated() -> None:
    desk = Desk()

    def estimate_ms(now: float) -> float | None:
        waits_ms: float | None = desk.dispatcher.as_health(now)["queue"]["estimated_wait_ms"]
        return waits_ms

    assert estimate_ms(0.0) == 0.0
    desk.ask("x")
    assert estimate_ms(1.0) is None
    desk.dispatcher.on_worker_answer(finished(1, engine_time_s=3.0), 3.0)
    desk.ask("x", at=10.0)
    desk.ask("x", at=10.0)
    assert estimate_ms(11.0) == 5000.0
    desk.dispatcher.on_worker_lost("killed", 12.0)
    assert estimate_ms(12.0) is None


_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"), st.sampled_from(["generate", "newest", "triage", "nosuch"]), st.sampled_from([300, 2000])
        ),
        st.tuples(st.just("twin"), st.integers(0, 50), st.booleans()),
        st.tuples(st.just("event"), st.integers(0, 5), st.sampled_from(["ok", "refused", "failed", "cancelled"])),
        st.tuples(st.just("partial"), st.integers(0, 5), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 50), st.none()),
        st.tuples(st.just("lost"), st.none(), st.none()),
        st.tuples(st.just("worker"), st.integers(1, 3), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([1, 100, 400]), st.none()),
        st.tuples(st.just("drain"), st.booleans(), st.none()),
        st.tuples(st.just("cancel_all"), st.none(), st.none()),
    ),
    max_size=60,
)


class Storm:
    """A desk at which anything may happen, and a worker that holds to its promises."""

    def __init__(self) -> None:
        self.desk = Desk("[queue]\ncapacity = 4\n")
        self.now = 0.0
        self.asked: Counter[str] = Counter()
        self.heard_runs = 0
        # What the worker works on, and what it was told to leave.
        self.running: list[int] = []
        self.sent: list[dict[str, Any]] = []

    def step(self, act: str, first: Any, second: Any) -> None:
        dispatcher = self.desk.dispatcher
        match act:
            case "ask":
                identity = f"r{len(self.sent)}"
                self.sent.append({"task": first, "payload": {"input": "x", "id": identity, "deadline_ms": second}})
                self._ask(self.sent[-1])
            case "twin" if self.sent:
                self._ask(self.sent[first % len(self.sent)])
            case "event" if self.running:
                number = self.running.pop(first % len(self.running))
                events: dict[str, WorkerAnswer] = {
                    "ok": finished(number),
                    "refused": Failed(id=number, code=Code.TOO_LONG, message="m"),
                    "failed": Failed(id=number, code=Code.INTERNAL, message="m"),
                    "cancelled": Cancelled(id=number),
                }
                dispatcher.on_worker_answer(events[second], self.now)
            case "partial" if self.running:
                dispatcher.send_partial(Partial(id=self.running[first % len(self.running)], delta="x"))
            case "cancel":
                dispatcher.cancel("cancelled by command", self.now, request_id=f"r{first}")
            case "lost":
                self.running.clear()
                dispatcher.on_worker_lost("exit code 1", self.now)
            case "worker":
                self.desk.start_worker(first, self.now)
            case "wait":
                self.now += first / 1000
                dispatcher.expire_overdue(self.now)
            case "drain":
                dispatcher.admission.is_draining = bool(first)
            case "cancel_all":
                dispatcher.cancel("drain", self.now)
        self._work()

    def _ask(self, message: dict[str, Any]) -> None:
        self.asked[message["payload"]["id"]] += 1
        self.desk.ask(**message, at=self.now)

    def _work(self) -> None:
        runs = self.desk.runs
        self.running += [run.id for run in runs[self.heard_runs :]]
        self.heard_runs = len(runs)

    def settle(self) -> None:
        """A worker comes and answers all that is left."""
        self.step("worker", 3, None)
        while self.running:
            self.step("event", 0, "ok")


@settings(max_examples=100, deadline=None)
@given(_STEPS)
@pytest.mark.expects_warning
def test_every_request_gets_exactly_one_terminal_reply(steps: list[tuple[str, Any, Any]]) -> None:
    storm = Storm()
    for step in steps:
        storm.step(*step)
        assert len(storm.running) == storm.desk.dispatcher.active <= 3
    storm.settle()
    assert Counter(reply["id"] for reply in storm.desk.replies) == storm.asked
    assert all(set(reply) == REPLY_FIELDS for reply in storm.desk.replies)
    assert max(Counter(run.id for run in storm.desk.runs).values(), default=0) <= 2
    assert storm.desk.dispatcher.is_idle
    assert storm.desk.dispatcher.next_wake_up_at() is None
    assert not storm.desk.dispatcher.admission._duplicates._open


class TestLimits:
    HOT = Limits(
        level=Level.HOT,
        reason="the SoC is near its limit of 80 °C",
        refusal_cause=Code.OVERHEATED,
        causes=(Code.OVERHEATED,),
        max_active=1,
        max_tokens=16,
        lowest_priority=4,
    )

    def test_a_less_urgent_request_is_refused_with_the_cause_and_a_retry_time(self) -> None:
        desk = Desk()
        desk.dispatcher.slots.limits = self.HOT
        desk.ask({"input": "x", "id": "a", "priority": 5})
        assert (desk.reply["status"], code_of(desk.reply)) == ("busy", "overheated")
        assert "limit of 80 °C" in message_of(desk.reply)
        assert desk.reply["error"]["retry_after_s"] > 0
        desk.ask({"input": "x", "id": "b", "priority": 4}, at=1.0)
        assert desk.dispatcher.active == 1

    def test_fewer_run_at_once_and_write_less_text_and_answers_say_so(self) -> None:
        desk = Desk(slots=4)
        desk.dispatcher.slots.limits = self.HOT
        for task in ("generate", "report"):
            desk.ask({"input": "x", "priority": 0, "options": {"max_tokens": 100}}, task=task)
        assert desk.dispatcher.active == 1
        desk.dispatcher.on_worker_answer(finished(1), 1.0)
        assert desk.reply["degraded"] == ["overheated"]
        assert [run.max_tokens for run in desk.runs] == [16, 100]


class TestLog:
    @pytest.mark.parametrize(
        ("payload", "fields", "told"),
        [
            ({"input": "x", "options": {"SECRET": 1}}, {}, "code=bad_field: its reply says why"),
            ({"input": {"messages": [{"role": "SECRET"}]}}, {}, "code=bad_field: its reply says why"),
            (b'{"SECRET": 1, "SECRET": 2}', {}, "code=bad_json: its reply says why"),
            ("x", {"response_topic": "SECRET"}, "code=reply_topic_refused: its reply says why"),
            (b"SECRET \xff", {}, "code=not_utf8: payload: should be UTF-8 (invalid start byte at byte 7)"),
        ],
    )
    def test_the_log_of_a_refusal_quotes_no_caller(
        self, payload: Any, fields: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        desk = Desk()
        desk.ask(payload, correlation=b"c", **fields)
        assert desk.reply["status"] == "invalid"
        assert caplog.messages == [f"request ended task='generate' id='c' status=invalid {told}"]

    def test_the_log_quotes_no_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        desk = Desk()
        desk.ask("x", correlation=b"c")
        fault = Failed(id=1, code=Code.NO_VALID_OUTPUT, message="the model's answer: 'SECRET' is no number")
        desk.dispatcher.on_worker_answer(fault, 1.0)
        assert message_of(desk.reply) == fault.message
        assert caplog.text.endswith("status=failed code=no_valid_output: its reply says why\n")


def test_an_unusual_reading_is_a_word_for_a_small_client_and_counts_as_one_that_calls_for_a_look() -> None:
    desk = Desk(tasks='[tasks.watch]\nkind = "unusual"\nreply = "output"\n', slots=0)
    student = Student(name="student-w", path="", sha256="5t", quantization="none", tasks={"watch": ()})
    model = replace(MODEL, students=(student,))
    desk.dispatcher.admission.answerers.set_model(model)
    desk.dispatcher.on_worker_ready(model, ready(max_active=1), 0.0)
    for number, rarity in enumerate((0.0001, 0.4) * 50, start=1):
        desk.ask({"rms": number}, task="watch")
        text = json.dumps({"score": 1.0, "rarity": rarity, "because": []})
        desk.dispatcher.on_worker_answer(finished(number, finish=Finish.MODEL, text=text), 1.0)
    assert [(one.payload, one.content_type) for one in desk.publications[:2]] == [
        (b"unusual", "text/plain"), (b"usual", "text/plain"),
    ]  # fmt: skip
    counts = {"answers_total": 100, "notable_total": 50}
    assert desk.dispatcher.as_health(2.0)["inference"]["notable"] == {"watch": counts}
    odd = OddShare("watch", 0.5, None, expected=0.001, is_high=True, notable="unusual")
    assert desk.dispatcher.replies.odd_inputs.shares({}) == [odd]


class TestStudents:
    """A student of the task `triage`, beside a model with one slot."""

    def desk(self, choice: StudentChoice | None = None, **more: Any) -> Desk:
        desk = Desk(slots=0, **more)
        self.choice: StudentChoice | None = choice or StudentChoice("student-t", 0.5)
        learning = Learning(ScoreMaps(MODEL, "s/d"), config(), {}, desk.delivery.store, MODEL, desk.publications.append)
        learning._students.choose = lambda task: self.choice if task.name == "triage" else None  # type: ignore[method-assign]
        desk.dispatcher.admission.answerers = learning
        self.start(desk)
        return desk

    def start(self, desk: Desk, *names: str) -> None:
        labels = ("normal", "bearing fault")
        students = tuple(
            Student(name=name, path="", sha256="5t", quantization="Q8_0", tasks={"triage": labels})
            for name in names or ("student-t",)
        )
        model = replace(MODEL, students=students)
        desk.dispatcher.admission.answerers.set_model(model)
        desk.dispatcher.on_worker_ready(model, ready(max_active=1), 0.0)

    def test_a_request_for_a_student_runs_beside_those_of_the_model(self) -> None:
        desk = self.desk()
        for number in range(3):
            desk.ask({"input": "x", "id": number})
        desk.ask({"input": "y", "id": "quick"}, task="triage")
        assert [(run.id, run.student) for run in desk.runs] == [(1, None), (4, "student-t")]

    def test_the_reply_says_which_model_answered(self) -> None:
        desk = self.desk()
        for number, score in enumerate((0.9, 0.4), start=1):
            desk.ask({"input": f"{number}", "id": number}, task="triage")
            desk.dispatcher.on_worker_answer(labelled(number, normal=score, bearing_fault=0.1), 1.0)
        # The second one goes on to the model.
        assert [(run.id, run.student) for run in desk.runs] == [(1, "student-t"), (2, "student-t"), (2, None)]
        desk.dispatcher.on_worker_answer(labelled(2, normal=0.2, bearing_fault=0.8), 2.0)
        assert [reply["output"] for reply in desk.replies] == ["normal", "bearing fault"]
        of_student, of_model = [reply["model"] for reply in desk.replies]
        assert of_student == {"name": "student-t", "sha256": "5t", "quantization": "Q8_0"}
        assert of_model == {"name": "default", "sha256": "5ha", "quantization": "Q8_0"}
        counted = desk.dispatcher.as_health(2.0)["inference"]["models"]
        assert {name: one["answers_total"] for name, one in counted.items()} == {"student-t": 1, "default": 1}
        assert counted["student-t"]["latency_ms"]["p50"] == 1000.0

    @pytest.mark.parametrize(
        "event",
        [
            Failed(id=1, code=Code.BAD_FIELD, message="no field"),
            replace(labelled(1, normal=0.9, bearing_fault=0.1), unlike=1.0),
        ],
        ids=["refused", "unlike training"],
    )
    def test_what_a_student_does_not_take_goes_on_to_the_model(self, event: WorkerAnswer) -> None:
        desk = self.desk()
        desk.ask({"input": "x", "id": 1}, task="triage")
        desk.dispatcher.on_worker_answer(event, 1.0)
        assert desk.replies == []
        desk.dispatcher.on_worker_answer(labelled(1, normal=0.9, bearing_fault=0.1), 2.0)
        assert desk.reply["model"]["name"] == "default"

    def test_an_audit_is_answered_by_both_and_costs_both(self) -> None:
        desk = self.desk(StudentChoice("student-t", 0.5, is_audit=True))
        desk.dispatcher.joules_per_busy_s = 10.0
        desk.ask({"input": "x", "id": 1}, task="triage")
        desk.dispatcher.on_worker_answer(labelled(1, normal=0.9, bearing_fault=0.1), 1.0)
        desk.dispatcher.on_worker_answer(labelled(1, normal=0.3, bearing_fault=0.7), 2.0)
        assert (desk.reply["output"], desk.reply["usage"]["energy_j"]) == ("bearing fault", 2.0)

    def test_one_that_is_passed_on_waits_by_its_priority_and_frees_the_student(self) -> None:
        desk = self.desk()
        for number in range(2):
            desk.ask({"input": "x", "id": f"other {number}"})
        desk.ask({"input": "y", "id": "urgent", "priority": 0}, task="triage")
        desk.dispatcher.on_worker_answer(labelled(3, normal=0.1, bearing_fault=0.2), 1.0)
        desk.ask({"input": "z", "id": "next"}, task="triage", at=1.0)
        assert [(run.id, run.student) for run in desk.runs] == [(1, None), (3, "student-t"), (4, "student-t")]
        desk.dispatcher.on_worker_answer(finished(1), 2.0)
        assert (desk.runs[-1].id, desk.runs[-1].student) == (3, None)

    def test_a_cancelled_request_is_not_passed_on(self) -> None:
        desk = self.desk()
        desk.ask({"input": "x", "id": 1}, task="triage")
        desk.dispatcher.cancel("cancelled by command", 0.5)
        desk.dispatcher.on_worker_answer(labelled(1, normal=0.1, bearing_fault=0.2), 1.0)
        assert len(desk.runs) == 1
        assert desk.statuses() == [(1, "cancelled")]

    def test_a_reading_with_a_newer_one_behind_it_is_not_passed_on(self) -> None:
        tasks = '[tasks.triage]\nkind = "classify"\nlabels = ["normal", "bearing fault"]\nkeep = "latest"\n'
        desk = self.desk(tasks=tasks + 'subscribe = ["plant/+"]\n')
        for number in range(9):  # eight run
            desk.receive(inbound("plant/1", {"hz": number}), 0.0)
        desk.dispatcher.on_worker_answer(labelled(1, normal=0.1, bearing_fault=0.2), 1.0)
        assert [code_of(reply) for reply in desk.replies] == ["superseded"]

    def test_under_heat_a_proven_student_answers_alone(self) -> None:
        # That includes one that is drawn for an audit.
        desk = self.desk(StudentChoice("student-t", 0.5, is_audit=True))
        desk.dispatcher.slots.limits = HOT
        desk.ask({"input": "x", "id": "other"})
        for number, score in ((1, 0.9), (2, 0.4)):
            desk.ask({"input": f"{number}", "id": number}, task="triage")
            desk.dispatcher.on_worker_answer(labelled(desk.runs[-1].id, normal=score, bearing_fault=0.1), 1.0)
        assert desk.statuses() == [("other", "busy"), (1, "ok"), (2, "busy")]
        assert code_of(desk.replies[-1]) == "overheated"
        # A student that has proven nothing answers nothing alone.
        desk = self.desk(StudentChoice("student-t", UNREACHABLE))
        desk.dispatcher.slots.limits = HOT
        desk.ask({"input": "y", "id": "unsure"}, task="triage")
        assert desk.statuses() == [("unsure", "busy")]

    def test_a_request_that_waits_for_another_model_is_asked_its_students(self) -> None:
        desk = self.desk()
        desk.dispatcher.on_worker_lost("it is replaced", 0.0)
        desk.ask({"input": "y", "id": 1}, task="triage")
        self.choice = StudentChoice("student-u", 0.5)
        self.start(desk, "student-u")
        assert [run.student for run in desk.runs] == ["student-u"]

    @pytest.mark.parametrize("learns", [False, True])
    def test_a_task_with_its_own_model_is_for_it_alone(self, *, learns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ClassifyTask, "has_own_model", True)
        desk = self.desk() if learns else Desk(slots=0)
        self.choice = None
        self.start(desk)
        # Neither heat nor a failure of its model concerns the large one.
        desk.dispatcher.slots.limits = HOT
        desk.ask({"input": "x", "id": 1}, task="triage")
        desk.dispatcher.on_worker_answer(Failed(id=1, code=Code.BAD_FIELD, message="no field"), 1.0)
        assert [(run.id, run.student) for run in desk.runs] == [(1, "student-t")]
        assert code_of(desk.reply) == "bad_field"

    def test_a_task_whose_own_model_is_not_in_the_bundle_is_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ClassifyTask, "has_own_model", True)
        desk = Desk(slots=0)
        self.start(desk)
        desk.dispatcher.on_worker_lost("it is replaced", 0.0)
        desk.ask({"input": "x", "id": "waits"}, task="triage")
        desk.dispatcher.admission.answerers.set_model(MODEL)
        desk.start_worker()
        desk.ask({"input": "y", "id": "comes later"}, task="triage")
        assert [(reply["id"], code_of(reply)) for reply in desk.replies] == [
            ("waits", "unknown_task"), ("comes later", "unknown_task"),
        ]  # fmt: skip
        assert (desk.runs, desk.dispatcher.waiting) == ([], 0)
