"""`reply = "output"`, as a client with a small buffer sees it, at both MQTT versions, over a real broker."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.processes import BrokerPort
from tests.helpers.site import Site, running_site
from tests.helpers.support import REPLY_FIELDS

TASKS = """
[tasks.pump]
kind = "classify"
labels = ["normal", "bearing fault", "cavitation", "overload"]
template = "{{ input.note }}"
min_score = 0.5
top_scores = 2
reply = "output"
subscribe = ["plant/pumps/+/hears"]
publish = "plant/pumps/{1}/is"
[tasks.stop]
kind = "extract"
reply = "output"
schema = { type = "object", required = ["stop"], properties = { stop = { type = "boolean" } } }
[tasks.echo]
kind = "generate"
reply = "output"
[tasks.generate]
enabled = false
"""


@pytest.fixture(scope="module")
def agent_of_module(broker_port: BrokerPort, tmp_path_factory: pytest.TempPathFactory, protocol: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("agent"), broker_port(protocol), protocol, more=TASKS) as site:
        yield site


def payloads(site: Site, topic: str, count: int = 1) -> list[bytes]:
    """All messages on a topic, and what comes shortly after the last one that is due."""
    site.client.wait(topic, count=count)
    site.command("ping")
    return [message.payload for message in site.client.on(topic)]


def errors(site: Site, task: str, count: int = 1) -> list[dict[str, Any]]:
    payloads(site, f"{site.base}/infer/{task}/error", count)
    return [message.json for message in site.client.on(f"{site.base}/infer/{task}/error")]


def test_a_bare_payload_gets_the_answer_and_nothing_else(site: Site) -> None:
    site.client.publish(site.request("pump"), {"note": "bearing fault"})
    assert payloads(site, site.response("pump")) == [b"bearing fault"]
    site.client.publish(site.request("stop"), "anything")
    assert payloads(site, site.response("stop")) == [b'{"stop":false}']
    assert not site.client.on(f"{site.base}/infer/pump/error")
    if site.protocol == "5":
        types = [site.client.on(site.response(task))[0].content_type for task in ("pump", "stop")]
        assert types == ["text/plain", "application/json"]


def test_an_envelope_gets_the_full_reply_with_the_scores_that_the_task_wants(site: Site) -> None:
    reply = site.ask("pump", {"input": {"note": "cavitation"}, "id": 7})
    assert set(reply) == REPLY_FIELDS
    assert (reply["id"], reply["output"]) == (7, "cavitation")
    assert next(iter(reply["scores"])) == "cavitation"
    assert len(reply["scores"]) == 2


def test_a_mistake_goes_whole_to_the_error_topic(site: Site) -> None:
    site.client.publish(site.request("pump"), '{"note": ')
    site.client.publish(site.request("pump"), {"vibration": 7})
    found = errors(site, "pump", 2)
    assert [reply["error"]["code"] for reply in found] == ["bad_json", "bad_field"]
    assert all(set(reply) == REPLY_FIELDS | {"reply_to"} for reply in found)
    assert all(reply["reply_to"] == site.response("pump") for reply in found)
    assert not site.client.on(site.response("pump"))


def test_a_reading_is_answered_where_the_task_says_and_an_error_names_that_topic(site: Site) -> None:
    site.client.publish("plant/pumps/p7/hears", {"note": "overload"})
    site.client.publish("plant/pumps/p8/hears", {"note": "strange"})
    assert payloads(site, "plant/pumps/p7/is") == [b"overload"]
    (reply,) = errors(site, "pump")
    assert (reply["status"], reply["degraded"], reply["reply_to"]) == ("ok", ["unsure"], "plant/pumps/p8/is")
    assert not site.client.on("plant/pumps/p8/is")


@pytest.mark.parametrize("protocol", ["5"], indirect=True)
def test_a_repeated_question_gets_the_same_bytes_with_its_correlation(site: Site) -> None:
    topic = "edgeai/v1/reply/plc"
    for _ in range(2):
        site.client.publish(site.request("echo"), "word", response_topic=topic, correlation=b"\x07")
    site.client.publish(site.request("echo"), "word", response_topic="elsewhere/x", correlation=b"\x08")
    assert payloads(site, topic, 2) == [b"word", b"word"]
    assert [message.correlation for message in site.client.on(topic)] == [b"\x07", b"\x07"]
    (reply,) = errors(site, "echo")
    assert reply["error"]["code"] == "reply_topic_refused"
    assert site.client.on(f"{site.base}/infer/echo/error")[0].correlation == b"\x08"


@pytest.mark.parametrize("protocol", ["3.1.1"], indirect=True)
def test_equal_payloads_without_an_id_are_two_readings(site: Site) -> None:
    for _ in range(2):
        site.client.publish(site.request("echo"), "word")
    assert payloads(site, site.response("echo"), 2) == [b"word", b"word"]


def test_a_task_that_is_switched_off_is_unknown(site: Site) -> None:
    reply = site.ask("generate", "hello")
    assert (reply["status"], reply["error"]["code"]) == ("invalid", "unknown_task")
    assert "`tasks.generate.enabled = false`" in reply["error"]["message"]
    tasks = site.client.wait(f"{site.base}/info")[0].json["tasks"]
    assert "generate" not in tasks
    assert (tasks["pump"]["reply"], tasks["triage"]["reply"]) == ("output", "full")
