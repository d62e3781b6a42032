"""docs/mqtt-api.md names every topic, field, code and command, and its samples are accepted."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from edge_agent import cli
from edge_agent.commands.authority import Authority
from edge_agent.core.codes import Code, Status
from edge_agent.core.config import OPERATIONS
from edge_agent.core.envelope import Options
from edge_agent.core.topics import Topics
from tests.docs.pages import page, samples, section

PACKAGE = Path(__file__).parents[2] / "edge_agent"


def test_every_command_that_is_shown_parses() -> None:
    shown = re.findall(r"`edge-agent command ([a-z-]+) '([^`']*)'`", page("mqtt-api"))
    assert shown
    for operation, fields in shown:
        assert cli.parser().parse_args(["command", operation, fields]).fields == json.loads(fields)
        assert operation in OPERATIONS


def test_the_table_of_topics_is_complete() -> None:
    shown = set(re.findall(r"^\| `<base>/([^`]+)`", section("mqtt-api", "Topics"), flags=re.MULTILINE))
    topics = Topics("r", "s", "d")
    ours = {
        topics.request("<task>"),
        topics.response("<task>"),
        topics.state,
        topics.info,
        topics.health,
        topics.alarm("<name>"),
        topics.event("<name>"),
        topics.command("<op>"),
        topics.command_result("<op>"),
    }
    assert {f"{topics.base}/{name}" for name in shown} == ours


def test_every_error_code_of_commands_is_named() -> None:
    code = "".join(path.read_text("utf-8") for path in (PACKAGE / "commands").glob("*.py"))
    codes = set(re.findall(r"""CommandError\("(\w+)\"""", code))
    assert "too_long" in codes
    assert not {name for name in codes if f"`{name}`" not in section("mqtt-api", "Commands")}


def test_every_error_code_and_option_is_named() -> None:
    text = section("mqtt-api", "A request, field by field")
    assert all(f"`{code.value}`" in text for code in Code)
    assert all(f"`{status.value}`" in text for status in Status if status is not Status.PARTIAL)
    assert all(f"`{name}`" in text for name in Options.model_fields)


def test_signing_sample_is_accepted() -> None:
    (sample,) = samples("mqtt-api", "python")
    names: dict[str, Any] = {"key": b"secret"}
    exec("import hashlib, hmac, json, secrets\nfrom datetime import UTC, datetime\n" + sample, names)
    Authority(b"secret").check("ping", names["body"], time.time())


def test_every_command_is_in_the_table() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", section("mqtt-api", "Commands"), flags=re.MULTILINE) == list(OPERATIONS)
