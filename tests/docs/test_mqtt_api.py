"""docs/mqtt-api.md names every topic, field, code and command; its messages, and those of docs/tasks.md, are real."""

import json
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from edge_agent import cli
from edge_agent.commands import fields as commands
from edge_agent.commands.authority import Authority
from edge_agent.core.codes import Code, CommandCode, Status
from edge_agent.core.config import OPERATIONS
from edge_agent.core.envelope import Envelope, Options
from edge_agent.core.topics import Topics
from tests.docs.demonstration import BASE, fields_of, messages_shown, running_demonstration
from tests.docs.pages import page, rows, sample, samples, section
from tests.helpers.client import Client
from tests.helpers.support import REPLY_FIELDS

PACKAGE = Path(__file__).parents[2] / "edge_agent"
# In this order, because mqtt-api drains the board at its end.
SHOWN = messages_shown("tasks") + messages_shown("mqtt-api")
TO_THE_BOARD = [(topic, text) for topic, text in SHOWN if re.search(r"/request$|/cmd/\w+$", topic)]
TRIAGE, EXPLANATION, STATE = (
    f"{BASE}/infer/{task}" for task in ("machine-triage", "machine-explanation", "pump-state")
)


def subsection(title: str, subtitle: str) -> str:
    return section("mqtt-api", title).split(f"### {subtitle}\n")[1].split("\n### ")[0]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", re.sub(r"\(.*?\)", "", cell))


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Any]]]:
    """What the demonstration says, by topic, to the messages that the pages show, and in some distress."""
    folder = tmp_path_factory.mktemp("demo")
    with running_demonstration(folder) as (port, config), closing(Client(port, "5")) as client:
        client.subscribe("edgeai/v1/#")
        client.hear_retained()
        with config.open("a", encoding="utf-8") as file:
            file.write(sample("tasks", "toml", 'reply = "output"'))
        client.exchange(f"{BASE}/cmd/reload", b"{}", f"{BASE}/cmd/reload/result")
        client.exchange(f"{STATE}/request", '{"vibration":', f"{STATE}/error")
        for topic, text in TO_THE_BOARD:
            reply_to = json.loads(text).get("reply_to")
            client.exchange(topic, text, reply_to or answers_of(topic))
        client.exchange(f"{BASE}/cmd/resume", b"{}", f"{BASE}/cmd/resume/result")
        wrong = {"id": 4, "input": {"vibration_mm_s": 7.9}, "priority": 12}
        client.exchange(f"{TRIAGE}/request", wrong, f"{TRIAGE}/response")
        stream = {"id": "s1", "input": "7.9 mm/s", "stream": True, "reply_to": "edgeai/v1/reply/me"}
        client.publish(f"{EXPLANATION}/request", stream)
        client.wait_for("edgeai/v1/reply/me", lambda reply: reply["status"] == "ok")
        client.exchange(f"{BASE}/cmd/cancel", {"id": 3, "request_id": "x"}, f"{BASE}/cmd/cancel/result")
        for session in ("0123456789abcdef", "fedcba9876543210"):
            client.publish(f"{BASE}/state", {"state": "online", "session": session})
        client.wait(f"{BASE}/alarm/duplicate-client-id")
        os.kill(client.wait(f"{BASE}/health")[0].json["worker"]["pid"], signal.SIGKILL)
        client.wait(f"{BASE}/event/worker-restarted")
        found: defaultdict[str, list[Any]] = defaultdict(list)
        for message in client.messages:
            # Empty payloads end alarms, and one request is deliberately no JSON.
            with suppress(ValueError):
                found[message.topic].append(json.loads(message.payload))
        yield found


def answers_of(topic: str) -> str:
    return f"{topic}/result" if "/cmd/" in topic else topic.replace("/request", "/response")


def test_every_sample_is_a_message() -> None:
    assert [text for _, text in SHOWN] == samples("tasks", "json") + samples("mqtt-api", "json")
    assert len(TO_THE_BOARD) >= 7


@pytest.mark.parametrize(("topic", "text"), SHOWN)
def test_a_sample_has_the_fields_of_a_real_message(heard: dict[str, list[Any]], topic: str, text: str) -> None:
    assert fields_of(json.loads(text)) in [fields_of(message) for message in heard[topic]]


@pytest.mark.parametrize(("topic", "text"), TO_THE_BOARD)
def test_a_message_to_the_board_is_answered_ok(heard: dict[str, list[Any]], topic: str, text: str) -> None:
    answers = heard[json.loads(text).get("reply_to") or answers_of(topic)]
    assert answers[0]["status"] == "ok"


@pytest.mark.parametrize("title", ["Info", "Health"])
def test_fields_of_a_table_are_in_its_sample(title: str) -> None:
    (document,) = (json.loads(text) for topic, text in SHOWN if topic == f"{BASE}/{title.lower()}")
    for path in [path for first, *_ in rows(section("mqtt-api", title)) for path in names(first)]:
        value = document
        for key in path.replace("[0]", ".0").split("."):
            value = value[int(key) if key.isdigit() else key]


def test_the_table_of_topics_is_complete() -> None:
    shown = set(re.findall(r"^\| `<base>/([^`]+)`", section("mqtt-api", "Topics"), flags=re.MULTILINE))
    topics = Topics("r", "s", "d")
    ours = {
        topics.request("<task>"), topics.response("<task>"), topics.error("<task>"), topics.audit("<task>"),
        topics.feedback("<task>"), topics.feedback_result("<task>"), topics.state, topics.info, topics.health,
        topics.signals("<table>"), topics.alarm("<name>"), topics.event("<name>"), topics.command("<op>"),
        topics.command_result("<op>"),
    }  # fmt: skip
    assert {f"{topics.base}/{name}" for name in shown} == ours


def test_the_tables_of_requests_and_replies_are_complete() -> None:
    envelope = [names(first)[0] for first, *_ in rows(subsection("Requests", "Envelopes"))]
    assert envelope == list(Envelope.model_fields)
    assert [names(first)[0] for first, *_ in rows(subsection("Requests", "Options"))] == list(Options.model_fields)
    replies = {name.split(".")[0] for first, *_ in rows(subsection("Replies", "Answers")) for name in names(first)}
    assert replies == {*REPLY_FIELDS, "interval", "machine", "please_check", "input", "topic"}


def test_every_error_code_stands_beside_its_status() -> None:
    shown: dict[str, str] = {}
    status = ""
    for first, codes, *_ in rows(subsection("Replies", "Statuses and codes")):
        status = names(first)[0] if first else status
        shown |= dict.fromkeys(names(codes), status)
    assert shown == {code.value: code.status.value for code in Code}
    assert all(f"`{status.value}`" in section("mqtt-api", "Replies") for status in Status)


def test_allowed_reply_topics_are_named() -> None:
    text = subsection("Requests", "Where the reply goes").replace("<base>", "<root>/<site>/<device>")
    assert all(f"`{topic}`" in text for topic in Topics("<root>", "<site>", "<device>").default_reply_topics)


def test_every_command_is_in_the_table_with_its_fields() -> None:
    text = section("mqtt-api", "Commands").split("\n### ")[0]
    table = {names(operation)[0]: set(names(fields)) for operation, fields, _ in rows(text)}
    known: dict[str, type[commands.CommandFields]] = {
        "drain": commands.DrainFields,
        "cancel": commands.CancelFields,
        "model-switch": commands.SwitchFields,
        "model-rollback": commands.RollbackFields,
        "quarantine-release": commands.ReleaseFields,
        "feedback-export": commands.ExportFields,
    }
    common = commands.CommandFields.model_fields.keys()
    assert list(table) == list(OPERATIONS)
    assert table == {op: {*known.get(op, commands.CommandFields).model_fields} - common for op in OPERATIONS}


def test_every_error_code_of_commands_is_named() -> None:
    table = subsection("Commands", "Results").split("| `error.code` | when |")[1]
    assert {name for first, _ in rows(table) for name in names(first)} == set(CommandCode)


def test_every_command_that_is_shown_parses() -> None:
    shown = re.findall(r"`edge-agent command ([a-z-]+) '([^`']*)'`", page("mqtt-api"))
    assert shown
    for operation, fields in shown:
        assert cli.parser().parse_args(["command", operation, fields]).fields == json.loads(fields)
        assert operation in OPERATIONS


def test_signing_sample_is_accepted() -> None:
    (sample,) = samples("mqtt-api", "python")
    values: dict[str, Any] = {"key": b"secret"}
    exec("import hashlib, hmac, json, secrets\nfrom datetime import UTC, datetime\n" + sample, values)
    Authority(b"secret").check("ping", values["body"], time.time())


def test_every_event_is_in_the_table() -> None:
    shown = {name for first, *_ in rows(section("mqtt-api", "Events")) for name in names(first)}
    files = ("agent.py", "commands/commands.py", "learning/feedback.py")
    code = "".join((PACKAGE / name).read_text("utf-8") for name in files)
    found = re.findall(r"""(?:publish_event\(|\[\(|append\(\()"([\w-]+)\"""", code)
    assert shown == {*found, "doctor"}
