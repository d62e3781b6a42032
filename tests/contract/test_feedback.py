"""Feedback over a real broker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent import cli
from edge_agent.learning.maths.export import read_export
from tests.helpers.processes import BrokerPort, EdgeAgent
from tests.helpers.site import Site, running_site
from tests.helpers.support import REPLY_FIELDS

TASKS = """
[commands]
allow = ["ping", "health", "feedback-export"]
[feedback]
enabled = true
keep_inputs = true
[tasks.audited]
kind = "classify"
labels = ["good", "bad"]
audit_rate = 1
echo_input = "audits"
[tasks.bare]
kind = "classify"
labels = ["good", "bad"]
min_score = 0.8
reply = "output"
audit_rate = 1
"""


@pytest.fixture(scope="module")
def protocol() -> str:
    """Nothing of feedback depends on the MQTT version."""
    return "5"


@pytest.fixture(scope="module")
def agent_of_module(broker_port: BrokerPort, tmp_path_factory: pytest.TempPathFactory, protocol: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("agent"), broker_port(protocol), protocol, more=TASKS) as site:
        yield site


def feedback(site: Site, task: str, payload: Any) -> dict[str, Any]:
    topic = f"{site.base}/infer/{task}/feedback"
    return site.client.exchange(topic, payload, f"{topic}/result").json


def test_corrections_change_the_next_answer(site: Site) -> None:
    # The test model says "normal" where the text has the word, which is wrong in this plant.
    for number in range(40):
        text, right = ("normal", "cavitation") if number % 2 else ("bearing fault", "bearing fault")
        site.ask("triage", {"input": text, "id": number})
        result = feedback(site, "triage", {"id": number, "answer": right})
        assert (result["id"], result["status"], result["data"]["answer"]) == (number, "ok", right)
    event = site.client.wait_for(f"{site.base}/event/recalibration", lambda event: event["new_map"])
    assert event.json["task"] == "triage"

    reply = site.ask("triage", {"input": "normal", "id": "next"})
    assert reply["output"] == "cavitation"
    assert sum(reply["scores"].values()) == pytest.approx(1, abs=0.001)
    assert site.ask("triage", {"input": "bearing fault", "id": "other"})["output"] == "bearing fault"
    health = site.client.exchange(f"{site.base}/cmd/health", b"", f"{site.base}/health").json
    assert health["accuracy"]["triage"]["feedback"] >= 20


def test_an_audited_reply_asks_for_feedback(site: Site) -> None:
    reply = site.ask("audited", {"input": "good", "id": 1})
    assert reply["please_check"] is True
    assert set(reply) == {*REPLY_FIELDS, "please_check", "input"}
    assert "please_check" not in site.ask("audited", {"input": "good", "audit": False})
    assert reply["input"] == "good"
    assert feedback(site, "audited", {"id": 1, "correct": False})["data"]["answer"] == "bad"
    site.client.wait_for(f"{site.base}/health", lambda health: health["accuracy"]["audited"]["audits"] == 1)


def test_feedback_is_given_on_a_terminal(site: Site, edge_agent: EdgeAgent) -> None:
    board = ("--host", "127.0.0.1", "--port", str(site.port), "--site", "test", "--device", site.base.split("/")[-1])
    for request_id in ("terminal", 4711):
        site.ask("audited", {"input": "good", "id": request_id})
        done = edge_agent("feedback", "audited", str(request_id), "BAD", "--by", "Ana", *board)
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)["data"]
        assert (data["answer"], data["is_right"], data["by"]) == ("bad", False, "Ana")
    assert (
        json.loads(edge_agent("feedback", "audited", "terminal", "--right", *board).stdout)["data"]["answer"] == "good"
    )
    assert edge_agent("feedback", "audited", "07", "good", *board).returncode == 2
    unknown = edge_agent("feedback", "audited", "nobody", "good", *board)
    assert (unknown.returncode, json.loads(unknown.stdout)["error"]["code"]) == (2, "not_found")
    assert edge_agent("feedback", "audited", "terminal", *board).returncode == 64


@pytest.mark.parametrize(("text", "is_sure"), [("good", True), ("strange", False)])
def test_feedback_finds_the_audit_of_a_bare_reply(site: Site, text: str, is_sure: bool) -> None:  # noqa: FBT001
    site.client.publish(site.request("bare"), text, response_topic=f"edgeai/v1/reply/{text}")
    question = site.client.wait_for(
        f"{site.base}/infer/bare/audit", lambda reply: reply["reply_to"] == f"edgeai/v1/reply/{text}"
    ).json
    assert (question["output"], question["please_check"]) == (text if is_sure else None, True)
    site.client.wait(question["reply_to"] if is_sure else f"{site.base}/infer/bare/error")
    mark = {"id": question["id"], "reply_to": question["reply_to"], "answer": "good"}
    assert feedback(site, "bare", mark)["data"]["is_right"] is (True if is_sure else None)


@pytest.mark.parametrize(
    ("task", "payload", "code"),
    [
        ("triage", {"id": "nobody", "answer": "normal"}, "not_found"),
        ("triage", {"id": 1}, "bad_field"),
        ("triage", {"id": 1, "answer": "normal", "correct": True}, "bad_field"),
        ("triage", {"id": True, "answer": "normal"}, "bad_field"),
        ("triage", {"answer": "normal"}, "bad_field"),
        ("triage", {"id": 1, "answer": "normal", "by": ""}, "bad_field"),
        ("triage", {"id": 1, "answer": "normal", "by": "x" * 65}, "bad_field"),
        ("triage", "{", "bad_json"),
        ("generate", {"id": 1, "correct": True}, "unknown_task"),
        ("nosuch", {"id": 1, "correct": True}, "unknown_task"),
    ],
)
def test_feedback_that_cannot_be_taken_is_refused(site: Site, task: str, payload: Any, code: str) -> None:
    result = feedback(site, task, payload)
    assert (result["status"], result["error"]["code"]) == ("failed", code)


def test_kept_answers_are_exported_page_by_page_without_what_callers_sent(site: Site) -> None:
    for number in range(3):
        site.ask("vibration", {"input": {"vibration": number, "note": "SECRET"}, "id": f"SECRET-{number}"})
    feedback(site, "vibration", {"id": "SECRET-1", "answer": "bearing fault", "by": "Ana"})
    pages, after = [], 0
    while after is not None:
        result = site.command("feedback-export", {"task": "vibration", "after": after, "limit": 2})
        assert "SECRET" not in json.dumps(result)
        pages.append(result["data"])
        after = pages[-1]["next"]
    assert [len(page["answers"]) for page in pages] == [2, 1, 0]
    answers = [one for page in pages for one in page["answers"]]
    assert [one["label"] for one in answers] == [None, "bearing fault", None]
    assert [one["is_marked"] for one in answers] == [False, True, False]
    assert [one["by"] for one in answers] == [None, "Ana", None]
    assert all(sum(one["scores"].values()) == pytest.approx(1, abs=1e-6) for one in answers)
    assert pages[0]["definition"] == pages[1]["definition"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"task": "generate"}, "unknown_task"),
        ({}, "bad_field"),
        ({"task": "triage", "limit": 501}, "bad_field"),
        ({"task": "triage", "after": -1}, "bad_field"),
    ],
)
def test_an_export_that_cannot_be_given_is_refused(site: Site, fields: Any, code: str) -> None:
    assert site.command("feedback-export", fields)["error"]["code"] == code


def test_its_accuracy_is_printed_and_exported(site: Site, tmp_path: Path, edge_agent: EdgeAgent) -> None:
    for number in range(3):
        site.ask("audited", {"input": "good", "id": f"shown-{number}"})
        feedback(site, "audited", {"id": f"shown-{number}", "correct": True})
    words = ("--config", site.agent.config, "--out", tmp_path / "export.json")
    found = edge_agent("accuracy", "audited", *words, "--json").document
    assert found["board"] == "/".join(site.base.split("/")[-2:])
    assert found["audits"]["total"] >= 3
    assert len(read_export((tmp_path / "export.json").read_bytes()).answers) == found["answers"]
    done = edge_agent("accuracy", "nosuch", *words)
    assert (done.returncode, done.document["error"]["code"]) == (cli.EXIT_OTHER_STATUS, "unknown_task")
