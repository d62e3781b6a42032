"""What a caller sees of a request, at both MQTT versions, over a real broker."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.client import Connect
from tests.helpers.processes import BrokerPort
from tests.helpers.site import Site, StartSite, running_site
from tests.helpers.support import REPLY_FIELDS


def test_bare_text_is_the_input(site: Site) -> None:
    reply = site.ask("triage", "it hums like a bearing fault")
    assert reply["status"] == "ok"
    assert reply["output"] == "bearing fault"
    assert set(reply["scores"]) == {"normal", "bearing fault", "cavitation"}
    assert sum(reply["scores"].values()) == pytest.approx(1, abs=0.001)
    assert reply["finish"] == "labels"


def test_bare_object_is_the_input(site: Site) -> None:
    assert site.ask("triage", {"vibration": 7.1, "note": "cavitation"})["output"] == "cavitation"


def test_every_terminal_reply_has_every_field(site: Site) -> None:
    good = site.ask("triage", "normal")
    bad = site.ask("triage", "{")
    assert set(good) == REPLY_FIELDS == set(bad)
    assert good["error"] is None
    assert bad["output"] is None
    assert good["device"] == site.base.rsplit("/", 1)[1]


def test_extract_gives_an_object_that_validates(site: Site) -> None:
    reply = site.ask("diagnosis", "anything")
    assert reply["status"] == "ok"
    assert isinstance(reply["output"]["stop"], bool)
    assert reply["finish"] == "schema"


def test_generate_is_always_there_and_takes_messages(site: Site) -> None:
    assert "hello" in site.ask("generate", "say hello")["output"]
    reply = site.ask("generate", {"messages": [{"role": "user", "content": "word"}]})
    assert "word" in reply["output"]


def test_envelope_id_is_echoed_with_its_type(site: Site) -> None:
    assert site.ask("triage", {"input": "normal", "id": "a-1"})["id"] == "a-1"
    assert site.ask("triage", {"input": "normal", "id": 17})["id"] == 17


def test_reply_goes_to_an_allowed_reply_to(site: Site) -> None:
    site.client.publish(site.request("triage"), {"input": "normal", "id": 1, "reply_to": "edgeai/v1/reply/me"})
    assert site.next_terminal("edgeai/v1/reply/me", 0)["status"] == "ok"
    assert not site.client.on(site.response("triage"))


@pytest.mark.parametrize(
    "topic",
    [
        "elsewhere/x",
        "edgeai/v1/reply/#",
        "edgeai/v1/reply/+",
        "$SYS/x",
        "edgeai/v1/reply/cmd/x",
        "edgeai/v1/reply/request",
    ],
)
def test_foreign_reply_topic_is_refused_on_the_default_one(site: Site, topic: str) -> None:
    reply = site.ask("triage", {"input": "normal", "id": 1, "reply_to": topic})
    assert reply["status"] == "invalid"
    assert reply["error"]["code"] == "reply_topic_refused"
    assert topic in reply["error"]["message"]
    assert not site.client.on("elsewhere/x")


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
def test_mqtt5_response_topic_and_correlation_data_are_used(site: Site) -> None:
    site.client.publish(
        site.request("triage"), "normal", response_topic="edgeai/v1/reply/five", correlation=b"\x00\xff\x01"
    )
    reply = site.next_terminal("edgeai/v1/reply/five", 0)
    assert reply["id"] == "00ff01"
    assert site.client.on("edgeai/v1/reply/five")[0].correlation == b"\x00\xff\x01"
    site.client.publish(
        site.request("triage"),
        {"input": "normal", "id": "mine", "reply_to": "edgeai/v1/reply/other"},
        response_topic="edgeai/v1/reply/wins",
        correlation=b"text",
    )
    assert site.next_terminal("edgeai/v1/reply/wins", 0)["id"] == "mine"
    assert site.client.on("edgeai/v1/reply/wins")[0].correlation == b"text"


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
def test_content_type_decides_what_is_parsed(site: Site) -> None:
    assert site.ask("triage", '{"not json', content_type="text/plain")["status"] == "ok"
    assert site.ask("triage", "bearing fault", content_type="application/json")["error"]["code"] == "bad_json"


def test_readings_on_existing_topics_are_answered_where_the_task_says(site: Site) -> None:
    # What looks like an envelope is just a reading there.
    envelope = {"input": {"note": "normal"}, "reply_to": "edgeai/v1/reply/me"}
    site.client.publish("plant/p7/vibration", {"vibration": 3.2, "note": "bearing fault", **envelope})
    reply = site.next_terminal("plant/p7/triage", 0)
    assert reply["output"] == "bearing fault"
    assert reply["task"] == "vibration"


@pytest.mark.parametrize(
    ("payload", "code", "named"),
    [
        (b"\xff\xfe", "not_utf8", "UTF-8"),
        (b"", "bad_field", "payload"),
        (b'{"input": "x"', "bad_json", "JSON"),
        (b'{"input": NaN}', "bad_json", "NaN"),
        (b'{"input": "x", "id": 1, "id": 2}', "bad_json", "id"),
        (b'{"input": "\\ud800"}', "bad_json", "surrogate"),
        (b"[" * 5000 + b"]" * 5000, "bad_json", "nested"),
        (b'{"input": 4}', "bad_field", "input"),
        (b'{"input": null}', "bad_field", "input"),
        (b'{"input": true}', "bad_field", "input"),
        (b'{"input": "x", "id": true}', "bad_field", "id"),
        (b'{"input": "x", "id": 1.5}', "bad_field", "id"),
        (b'{"input": "x", "id": ""}', "bad_field", "id"),
        (b'{"input": "x", "reply_to": 3}', "bad_field", "reply_to"),
        (b'{"input": "x", "deadline_ms": "soon"}', "bad_field", "deadline_ms"),
        (b'{"input": "x", "deadline_ms": 0}', "bad_field", "deadline_ms"),
        (b'{"input": "x", "priority": 10}', "bad_field", "priority"),
        (b'{"input": "x", "priority": "high"}', "bad_field", "priority"),
        (b'{"input": "x", "stream": "yes"}', "bad_field", "stream"),
        (b'{"input": "x", "options": []}', "bad_field", "options"),
        (b'{"input": "x", "options": {"temperature": 9}}', "bad_field", "options.temperature"),
        (b'{"input": "x", "options": {"max_tokens": 0}}', "bad_field", "options.max_tokens"),
        (b'{"input": "x", "options": {"top_p": "a"}}', "bad_field", "options.top_p"),
        (b'{"input": "x", "options": {"stop": [1]}}', "bad_field", "options.stop"),
        (b'{"input": "x", "options": {"reasoning": "maybe"}}', "bad_field", "options.reasoning"),
        (b'{"input": "x", "options": {"temprature": 0}}', "bad_field", "temprature"),
        (b"x" * 1_000_000, "too_long", "65536"),
    ],
)
def test_bad_payload_is_answered_invalid_and_names_the_fault(site: Site, payload: bytes, code: str, named: str) -> None:
    reply = site.ask("triage", payload)
    assert (reply["status"], reply["error"]["code"]) == ("invalid", code)
    assert named in reply["error"]["message"]


def test_invalid_reply_still_carries_the_id_that_was_given(site: Site) -> None:
    assert site.ask("triage", {"input": 4, "id": "who"})["id"] == "who"


def test_missing_template_variable_is_named(site: Site) -> None:
    reply = site.ask("vibration", {"speed": 3})
    assert reply["error"]["code"] == "bad_field"
    assert reply["error"]["message"].startswith('input: has no "vibration"')
    assert reply["error"]["message"].endswith('(got {"speed": 3})')


def test_unknown_task_is_answered_on_its_own_response_topic(site: Site) -> None:
    reply = site.ask("nonsense", "x")
    assert reply["error"]["code"] == "unknown_task"
    assert "triage" in reply["error"]["message"]


def test_a_retained_request_is_answered_when_it_is_new_and_its_copy_never(
    start_site: StartSite, connect: Connect, protocol: str
) -> None:
    topic = f"edgeai/v1/test/late{protocol[0]}/infer/triage/request"
    before = connect(protocol)
    before.publish(topic, {"input": "normal", "id": "old"}, retain=True)
    site = start_site(protocol, device=f"late{protocol[0]}")
    assert site.ask("triage", {"input": "normal", "id": "new"})["id"] == "new"
    assert [message.json["id"] for message in site.client.on(site.response("triage"))] == ["new"]
    if protocol == "3.1.1":  # at MQTT 5 the broker is told to keep such messages to itself
        site.client.publish(f"{site.base}/cmd/health", b"")
        site.client.wait_for(f"{site.base}/health", lambda health: health["mqtt"]["dropped"] == 1)
    before.publish(topic, {"input": "normal", "id": "live"}, retain=True)
    site.client.wait(site.response("triage"), count=2)
    assert [message.json["id"] for message in site.client.on(site.response("triage"))] == ["new", "live"]
    before.publish(topic, b"", retain=True)


def test_partial_replies_add_up_to_the_answer(site: Site) -> None:
    reply = site.ask("generate", {"input": "one two three four", "id": "s", "stream": True})
    partials = [m.json for m in site.client.on(site.response("generate")) if m.json["status"] == "partial"]
    assert [partial["seq"] for partial in partials] == list(range(len(partials)))
    assert len(partials) > 1
    assert "".join(partial["delta"] for partial in partials) == reply["output"]


def test_same_request_again_is_answered_again_without_inference(site: Site) -> None:
    first = site.ask("triage", {"input": "normal", "id": "twice"})
    second = site.ask("triage", {"input": "normal", "id": "twice"})
    assert (first["repeat"], second["repeat"]) == (False, True)
    assert first["output"] == second["output"]
    third = site.ask("triage", {"input": "cavitation", "id": "twice"})
    assert third["repeat"] is False


@pytest.fixture(scope="module")
def slow_agent_of_module(
    broker_port: BrokerPort, tmp_path_factory: pytest.TempPathFactory, protocol: str
) -> Iterator[Site]:
    """One agent whose requests last, one after the other."""
    more = '[tasks.newest]\nkind = "generate"\nkeep = "latest"\n[engine]\nmax_active = 1\n[queue]\ncapacity = 16\n'
    folder = tmp_path_factory.mktemp("slow")
    with running_site(folder, broker_port(protocol), protocol, model="echo:step_ms=100", more=more) as site:
        yield site


def test_200_requests_at_once_against_a_queue_of_16_get_one_reply_each(slow: Site) -> None:
    for number in range(200):
        slow.client._client.publish(slow.request("triage"), json.dumps({"input": f"normal {number}", "id": number}), 1)
    messages = slow.client.wait(slow.response("triage"), count=200)
    replies = [message.json for message in messages]
    assert Counter(reply["id"] for reply in replies) == dict.fromkeys(range(200), 1)
    statuses = Counter(reply["status"] for reply in replies)
    assert set(statuses) == {"ok", "busy"}
    assert statuses["ok"] >= 16
    busy = [reply for reply in replies if reply["status"] == "busy"]
    # A slow model cannot answer even those that would find a place.
    assert {reply["error"]["code"] for reply in busy} <= {"queue_full", "deadline_unreachable"}
    assert all(reply["error"]["retry_after_s"] > 0 for reply in busy)


def test_late_requests_expire_waiting_or_running(slow: Site) -> None:
    text = "word " * 100
    for number in range(3):
        slow.client.publish(slow.request("generate"), {"input": text, "id": number, "deadline_ms": 500})
    replies: list[dict[str, Any]] = [m.json for m in slow.client.wait(slow.response("generate"), count=3)]
    assert {reply["status"] for reply in replies} == {"expired"}
    assert {reply["error"]["code"] for reply in replies} == {"deadline"}
    assert all(500 <= reply["timing"]["total_ms"] < 1000 for reply in replies)
    assert slow.ask("triage", "normal")["status"] == "ok"


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
def test_mqtt5_message_expiry_is_a_deadline(slow: Site) -> None:
    slow.client.publish(slow.request("generate"), "word " * 100, expiry_s=1)
    reply = slow.next_terminal(slow.response("generate"), 0)
    assert reply["status"] == "expired"
    assert 900 <= reply["timing"]["total_ms"] < 2000


def test_only_the_latest_reading_is_kept_where_the_task_says_so(slow: Site) -> None:
    for number in range(5):
        slow.client.publish(slow.request("newest"), {"input": f"reading {number} of five", "id": number})
    replies = {m.json["id"]: m.json for m in slow.client.wait(slow.response("newest"), count=5)}
    assert replies[0]["status"] == "ok"
    assert replies[4]["status"] == "ok"
    superseded = [reply for reply in replies.values() if reply["status"] == "cancelled"]
    assert superseded
    assert {reply["error"]["code"] for reply in superseded} == {"superseded"}
