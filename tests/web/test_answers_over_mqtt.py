"""The page between a real broker, a board on the echo model, and a person."""

import getpass
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from edge_agent.core.config import MqttConfig
from edge_agent.web import marks
from edge_agent.web.guard import Endpoint
from edge_agent.web.journal import Journal
from edge_agent.web.live import Live
from edge_agent.web.server import application
from edge_agent.web.sessions import Sessions
from tests.helpers.client import Client
from tests.helpers.processes import BrokerPort, Mosquitto, free_port, wait_until
from tests.helpers.site import Site, running_site
from tests.tools.watch import boards
from tests.web.pages import LOOPBACK, WRITE, Browser

pytestmark = pytest.mark.usefixtures("require_mosquitto")
TASKS = """
[commands]
allow = ["ping", "health", "feedback-export"]
[feedback]
enabled = true
[tasks.audited]
kind = "classify"
labels = ["good", "bad"]
audit_rate = 1
echo_input = "audits"
[tasks.bare]
kind = "classify"
labels = ["good", "bad"]
audit_rate = 1
echo_input = "audits"
reply = "output"
subscribe = ["plant/+/text"]
publish = "plant/{1}/quality"
"""


@pytest.fixture(scope="module")
def agent_of_module(broker_port: BrokerPort, tmp_path_factory: pytest.TempPathFactory, protocol: str) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("agent"), broker_port(protocol), protocol, more=TASKS) as site:
        yield site


@contextmanager
def page(folder: Path, client: Client, port: int, protocol: str, device: str) -> Iterator[ASGIApp]:
    """The page of the site, once it shows the board and hears its answers on the plant's topics."""
    mqtt = MqttConfig.model_validate({"host": "127.0.0.1", "port": port, "protocol": protocol})
    live = Live(mqtt, "test", Journal(folder))
    app = application(live, Endpoint(listens_on=LOOPBACK), Sessions(None))
    live.start()
    try:

        def hears() -> Any:
            client.publish("plant/probe/quality", "good")
            return device in live.rows and Browser(app).get("/api/v1/answers").json()["rows"]

        wait_until(hears, "the page hears answers", every_s=0.1)
        yield app
    finally:
        live.stop()


@pytest.fixture
def device(site: Site) -> str:
    return site.base.rsplit("/", 1)[1]


@pytest.fixture
def app(site: Site, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ASGIApp]:
    monkeypatch.setattr(marks, "UNDO_S", 0.3)
    with page(tmp_path, site.client, site.port, site.protocol, device) as app:
        yield app


@pytest.fixture
def browser(app: ASGIApp) -> Browser:
    return Browser(app)


def first_check(browser: Browser, task: str) -> Any:
    def found() -> Any:
        return browser.get("/api/v1/checks", params={"task": task}).json()["checks"]

    wait_until(found, f"an audit of {task}")
    return found()[0]


def mark_and_wait(browser: Browser, key: str, **said: Any) -> Any:
    """The mark, once the board has it."""
    mark = browser.post("/api/v1/feedback", {"key": key, **said}).json()

    def now() -> Any:
        return browser.get("/api/v1/checks").json()["marks"][0]

    assert now()["mark"] == mark["mark"]
    wait_until(lambda: now()["state"] not in ("waiting", "sent"), "the board has the mark")
    return now()


def revealed(browser: Browser, mark: Any) -> Any:
    return browser.post("/api/v1/feedback/reveal", {"mark": mark["mark"], "by": mark["by"]}).json()


def test_what_a_person_says_of_an_audit_reaches_the_board_and_can_be_corrected(site: Site, browser: Browser) -> None:
    site.ask("audited", {"input": "good", "id": 7})
    check = first_check(browser, "audited")
    assert (check["id"], check["input"], check["labels"]) == (7, "good", ["good", "bad"])
    mark_and_wait(browser, check["key"], answer="good", by="Ana")
    mark = mark_and_wait(browser, check["key"], answer="bad", by="Ana")
    assert (mark["state"], mark["output"], mark["is_right"]) == ("kept", None, None)
    mark = revealed(browser, mark)
    assert (mark["output"], mark["is_right"]) == ("good", False)
    exported = site.command("feedback-export", {"task": "audited"})["data"]["answers"][-1]
    assert (exported["label"], exported["by"], exported["is_audit"]) == ("bad", "Ana", True)


def test_an_audit_of_a_bare_output_is_answered_on_its_check(site: Site, browser: Browser) -> None:
    query = {"task": "bare", "after": browser.get("/api/v1/answers").json()["cursor"]}
    site.client.publish("plant/m7/text", "bad")
    check = first_check(browser, "bare")
    wait_until(lambda: len(browser.get("/api/v1/answers", params=query).json()["rows"]) >= 2, "check and output")
    rows = browser.get("/api/v1/answers", params=query).json()["rows"]
    assert {row["output"] for row in rows} == {None}
    mark = mark_and_wait(browser, check["key"], answer="bad")
    assert mark["state"] == "kept"
    assert revealed(browser, mark)["is_right"] is True
    rows = browser.get("/api/v1/answers", params=query).json()["rows"]
    assert [row["output"] for row in rows].count("bad") == 2


def test_a_stop_sends_what_could_still_be_undone_and_keeps_what_is_open(
    site: Site, device: str, tmp_path: Path
) -> None:
    with page(tmp_path, site.client, site.port, site.protocol, device) as app:
        site.ask("audited", {"input": "good", "id": 9})
        site.ask("audited", {"input": "good", "id": 10})
        browser = Browser(app)
        key = first_check(browser, "audited")["key"]
        assert browser.post("/api/v1/feedback", {"key": key, "answer": "bad"}).json()["state"] == "waiting"
    result = site.client.wait_for(f"{site.base}/infer/audited/feedback/result", lambda result: result["id"] == 9)
    assert result.json["data"]["answer"] == "bad"
    with page(tmp_path, site.client, site.port, site.protocol, device) as app:
        assert first_check(Browser(app), "audited")["id"] == 10


def test_feedback_of_another_client_closes_the_audit(site: Site, browser: Browser) -> None:
    site.ask("audited", {"input": "good", "id": 8})
    assert first_check(browser, "audited")["id"] == 8
    topic = f"{site.base}/infer/audited/feedback"
    site.client.exchange(topic, {"id": 8, "correct": True}, f"{topic}/result")
    wait_until(lambda: browser.get("/api/v1/checks").json()["open"] == 0, "the audit is closed")


def ask(browser: Browser, path: str, document: Any, **headers: str) -> Any:
    headers = {**WRITE, "Content-Type": "application/json", **headers}
    return browser.post(f"/api/v1/ask/{path}", content=json.dumps(document).encode(), headers=headers)


def test_a_board_is_asked_over_http(browser: Browser, device: str) -> None:
    response = ask(browser, f"{device}/triage", {"input": "bearing fault"})
    assert (response.status_code, response.json()["output"]) == (200, "bearing fault")
    assert ask(browser, f"{device}/nosuch", {"input": "x"}).status_code == 404
    assert ask(browser, f"{device}/triage", {"input": "x" * 66_000}).status_code == 413
    assert ask(browser, f"{device}/triage", {"input": "x", "options": {"nosuch": 1}}).status_code == 400


def test_a_repeated_request_gets_the_same_answer_once_more(browser: Browser, device: str) -> None:
    key = {"Idempotency-Key": "order-7"}
    first, second = (ask(browser, f"{device}/triage", {"input": "normal"}, **key).json() for _ in range(2))
    assert (first["status"], second["status"]) == ("ok", "ok"), (first, second)
    assert (first["id"], first["repeat"], second["repeat"]) == ("order-7", False, True)
    assert second["scores"] == first["scores"]


def test_requests_of_many_threads_each_get_their_own_reply(app: ASGIApp, device: str) -> None:
    labels = ["normal", "bearing fault", "cavitation"] * 5
    outputs: dict[int, str] = {}

    def one(number: int) -> None:
        outputs[number] = ask(Browser(app), f"{device}/triage", {"input": labels[number], "id": number}).json()[
            "output"
        ]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(labels))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outputs[number] for number in range(len(labels))] == labels


@pytest.mark.expects_warning
def test_a_broker_that_lets_the_page_only_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "UNDO_S", 0.3)
    # If root starts mosquitto, it becomes a user that cannot read there.
    acl = "topic readwrite #\ntopic deny edgeai/v1/test/+/infer/+/feedback\n"
    (tmp_path / "acl").write_text(acl, encoding="utf-8")
    base, port = "edgeai/v1/test/b", free_port()
    tasks = {"t": {"kind": "classify", "labels": ["a", "b"], "publish": "plant/{1}/quality", "audit_rate": 1}}
    with (
        Mosquitto(tmp_path, port, f"user {getpass.getuser()}\nacl_file {tmp_path}/acl\n"),
        closing(Client(port, "5")) as client,
    ):
        client.publish(f"{base}/state", boards.state(), retain=True)
        client.publish(f"{base}/info", json.dumps({"tasks": tasks}), retain=True)
        with page(tmp_path, client, port, "5", "b") as app:
            browser = Browser(app)
            reply = {
                "id": 1,
                "task": "t",
                "device": "b",
                "status": "ok",
                "output": "a",
                "please_check": True,
                "input": "x",
            }
            client.publish(f"{base}/infer/t/response", json.dumps(reply))
            mark = mark_and_wait(browser, first_check(browser, "t")["key"], answer="a")
    assert mark["state"] == "refused"
    assert mark["error_code"] == "forbidden"
