"""A request over HTTP that waits for the board's reply."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from edge_agent.core.codes import Code
from edge_agent.mqtt.outbox import PublishResult
from edge_agent.tools.watch.site import BoardLevel
from edge_agent.web import ask as asking
from edge_agent.web.ask import http_status
from tests.web.answering import Bench

OK = {"id": 1, "status": "ok", "output": "normal", "error": None}


def refused(code: str, retry_after_s: float | None = None) -> dict[str, Any]:
    status = {each.value: each.status.value for each in Code}[code]
    return {"status": status, "error": {"code": code, "message": "why", "retry_after_s": retry_after_s}}


def test_the_reply_comes_back_byte_for_byte() -> None:
    bench = Bench()
    reply = b'{"id": 1,  "status":"ok","output":"normal", "degraded":["unsure"]}'
    bench.answer_asks(reply)
    response = bench.ask("press-04/triage", b'{"vibration_mm_s":7.9}')
    assert (response.status_code, response.content) == (200, reply)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("content", "content_type", "sent"),
    [
        (b'{"vibration_mm_s":7.9}', "application/json", {"input": {"vibration_mm_s": 7.9}, "deadline_ms": 2000}),
        (b'{"input":"x","priority":9}', "application/json", {"input": "x", "priority": 9, "deadline_ms": 2000}),
        (b'{"input":"x","stream":true}', "application/json", {"input": "x", "deadline_ms": 2000}),
        (b'{"input":"x","id":17,"deadline_ms":50}', "application/json", {"input": "x", "id": 17, "deadline_ms": 50}),
        (b'{"input":[],"deadline_ms":86400000}', "application/json", {"input": [], "deadline_ms": 300000}),
        (b"belt slips", "text/plain", {"input": "belt slips", "deadline_ms": 2000}),
        (b'{"input":"x"}', "text/plain; charset=utf-8", {"input": '{"input":"x"}', "deadline_ms": 2000}),
        (b"42", "application/json", {"input": "42", "deadline_ms": 2000}),
    ],
)
def test_a_body_is_read_as_a_payload_over_mqtt(content: bytes, content_type: str, sent: dict[str, Any]) -> None:
    bench = Bench()
    bench.answer_asks(OK)
    assert bench.ask("press-04/triage", content, content_type).status_code == 200
    ((topic, envelope),) = bench.sent
    assert topic == "edgeai/v1/hall1/press-04/infer/triage/request"
    assert envelope.pop("reply_to").startswith("edgeai/v1/reply/")
    if "id" not in sent:
        assert len(envelope.pop("id")) == 16
    assert envelope == sent


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"input":"x","reply_to":"plant/x"}', "reply_to: should be left out"),
        (b'{"input":"x","priority":12}', "priority"),
        (b'{"input":17}', "input: should be a string"),
        (b"", "payload: should not be empty"),
        (b"{", "strict JSON"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_faulty_envelope_is_refused_here(content: bytes, words: str) -> None:
    bench = Bench()
    response = bench.ask("press-04/triage", content)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
    assert bench.sent == []


@pytest.mark.parametrize(
    ("document", "status", "headers"),
    [
        (OK, 200, {}),
        ({**OK, "output": None, "degraded": ["unsure"]}, 200, {}),
        *((refused(code, 3.2), 429, {"Retry-After": "4"}) for code in ("queue_full", "deadline_unreachable")),
        *((refused(code), 429, {"Retry-After": "1"}) for code in ("rate_limited", "overheated", "power_limited")),
        (refused("memory_low", 1e9), 429, {"Retry-After": "3600"}),
        *((refused(code, 10), 503, {"Retry-After": "10"}) for code in ("loading", "draining")),
        (refused("deadline"), 504, {}),
        (refused("unknown_task"), 404, {}),
        (refused("too_long"), 413, {}),
        (refused("reply_topic_refused"), 500, {}),
        *((refused(code), 400, {}) for code in ("not_utf8", "bad_json", "bad_field", "quarantined")),
        *((refused(code), 503, {}) for code in ("cancelled", "superseded")),
        (refused("no_valid_output"), 422, {}),
        *((refused(code), 502, {}) for code in ("engine_lost", "internal")),
        ({}, 502, {}),
    ],
)
def test_how_a_request_ended_decides_the_status(document: Any, status: int, headers: dict[str, str]) -> None:
    assert http_status(document) == (status, headers)


def test_a_refusal_keeps_its_document() -> None:
    bench = Bench()
    bench.answer_asks(refused("queue_full", 3.2))
    response = bench.ask("press-04/triage", b"{}")
    assert (response.status_code, response.headers["retry-after"]) == (429, "4")
    assert response.json()["error"]["code"] == "queue_full"


def test_a_board_that_refuses_our_reply_topic_is_heard_on_its_own_one() -> None:
    bench = Bench()

    def refuse(publication: Any) -> None:
        document = {**refused("reply_topic_refused"), "id": json.loads(publication.payload)["id"]}
        topic = "edgeai/v1/hall1/press-04/infer/triage/response"
        asyncio.get_running_loop().call_soon(lambda: bench.hear(topic, document))

    bench.live.on_publish = refuse
    assert bench.ask("press-04/triage", b"{}").status_code == 500


def test_without_a_reply_it_says_so_two_seconds_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "GRACE_S", 0.05)
    bench = Bench()
    response = bench.ask("press-04/triage", b'{"input":"x","deadline_ms":50}')
    assert (response.status_code, response.json()["error"]["code"]) == (504, "no_reply")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("press-04/triage", 503, "no_broker"),
        ("oven-2/triage", 503, "offline"),
        ("lathe-1/triage", 503, "stale"),
        ("nosuch/triage", 404, "unknown_board"),
        ("pool/nosuch/triage", 404, "unknown_board"),
        ("press-05/bad%2Bname", 404, "unknown_task"),
    ],
)
def test_where_no_reply_can_come_it_says_why_at_once(path: str, status: int, code: str, bench: Bench) -> None:
    bench.live.is_up = code != "no_broker"
    response = bench.ask(path, b"{}")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert bench.sent == []
    assert ("retry-after" in response.headers) is (status == 503)


@pytest.fixture
def bench() -> Bench:
    """Two boards that answer, two that do not, and long enough after the page has connected."""
    bench = Bench()
    bench.live.up_s = 15.0
    bench.board("press-05")
    bench.board("oven-2", BoardLevel.OFFLINE)
    bench.board("lathe-1", BoardLevel.STALE)
    return bench


def test_a_request_is_a_post(bench: Bench) -> None:
    response = bench.browser.get("/api/v1/ask/press-04/triage")
    assert (response.status_code, response.headers["allow"], bench.sent) == (405, "POST", [])


def test_an_unknown_board_may_not_have_been_heard_yet_after_the_start() -> None:
    assert Bench().ask("nosuch/triage", b"{}").status_code == 503


def test_a_pool_is_asked_on_its_own_topic() -> None:
    bench = Bench()
    bench.board("press-05", health={"pool": {"name": "presses"}})
    bench.answer_asks(OK)
    assert bench.ask("pool/presses/triage", b"{}").status_code == 200
    assert bench.sent[0][0] == "edgeai/v1/hall1/pool/presses/infer/triage/request"


def test_an_idempotency_key_becomes_the_id_and_a_repetition_reaches_the_board_as_one() -> None:
    bench = Bench()
    bench.answer_asks(OK)
    for _ in range(2):
        assert bench.ask("press-04/triage", b"{}", **{"Idempotency-Key": "order-7"}).status_code == 200
    first, second = (publication.payload for publication in bench.live.published)
    assert first == second
    assert json.loads(first)["id"] == "order-7"


@pytest.mark.parametrize(
    ("key", "content"),
    [("x" * 129, b"{}"), ("", b"{}"), ("a", b'{"input":"x","id":"b"}'), ("a", b'{"input":1,"id":1}')],
)
def test_an_idempotency_key_that_cannot_be_the_id_is_refused(key: str, content: bytes) -> None:
    assert Bench().ask("press-04/triage", content, **{"Idempotency-Key": key}).status_code == 400


def event_after(bench: Bench, requests: int) -> asyncio.Event:
    """It is set once so many requests are sent."""
    event = asyncio.Event()
    bench.live.on_publish = lambda _: event.set() if len(bench.live.published) == requests else None
    return event


def test_a_key_is_in_use_until_its_request_is_answered() -> None:
    bench = Bench()

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        is_sent, key = event_after(bench, 1), {"Idempotency-Key": "order-7"}
        first = asyncio.create_task(bench.ask_in_loop("press-04/triage", b"{}", **key))
        await is_sent.wait()
        second = await bench.ask_in_loop("press-04/triage", b"{}", **key)
        bench.hear(bench.sent[0][1]["reply_to"], OK)
        return await first, second

    first, second = asyncio.run(ask())
    assert (first.status_code, second.status_code, len(bench.sent)) == (200, 409, 1)


def test_a_repetition_that_comes_with_the_reply_gets_its_own() -> None:
    bench = Bench()

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        is_sent, key = event_after(bench, 1), {"Idempotency-Key": "order-7"}
        first = asyncio.create_task(bench.ask_in_loop("press-04/triage", b"{}", **key))
        await is_sent.wait()
        is_sent = event_after(bench, 2)
        bench.hear(bench.sent[0][1]["reply_to"], OK)
        second = asyncio.create_task(bench.ask_in_loop("press-04/triage", b"{}", **key))
        await is_sent.wait()
        await first
        bench.hear(bench.sent[1][1]["reply_to"], OK)
        return await first, await second

    first, second = asyncio.run(ask())
    assert (first.status_code, second.status_code) == (200, 200)


def test_more_requests_than_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_PENDING", 2)
    bench = Bench()

    async def ask() -> tuple[httpx.Response, list[httpx.Response]]:
        are_sent = event_after(bench, 2)
        waiting = [asyncio.create_task(bench.ask_in_loop("press-04/triage", b"{}")) for _ in range(2)]
        await are_sent.wait()
        third = await bench.ask_in_loop("press-04/triage", b"{}")
        for _, envelope in bench.sent:
            bench.hear(envelope["reply_to"], OK)
        return third, list(await asyncio.gather(*waiting))

    third, waiting = asyncio.run(ask())
    assert (third.status_code, third.headers["retry-after"]) == (429, "1")
    assert [response.status_code for response in waiting] == [200, 200]
    bench.answer_asks(OK)
    assert bench.ask("press-04/triage", b"{}").status_code == 200


def test_a_client_that_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_PENDING", 1)
    bench = Bench()

    async def leave() -> None:
        ask = {"type": "http.request", "body": b"{}", "more_body": False}
        events: list[dict[str, Any]] = [ask, {"type": "http.disconnect"}]
        headers = {"Host": "127.0.0.1", "X-Edge-Agent": "1", "Content-Type": "application/json"}
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/v1/ask/press-04/triage",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
        }

        async def receive() -> dict[str, Any]:
            return events.pop(0)

        async def send(_message: Any) -> None:
            pass

        await bench.app(scope, receive, send)

    asyncio.run(asyncio.wait_for(leave(), 1.0))
    assert len(bench.sent) == 1
    bench.answer_asks(OK)
    assert bench.ask("press-04/triage", b"{}").status_code == 200


def test_a_broker_that_forbids_requests_is_named_at_once() -> None:
    bench = Bench()
    bench.live.on_publish = lambda _: asyncio.get_running_loop().call_soon(bench.refuse, 1, PublishResult.FORBIDDEN)
    response = bench.ask("press-04/triage", b"{}")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "publishing_refused")
