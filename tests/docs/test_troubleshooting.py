"""docs/troubleshooting.md has a row for everything that the agent may name."""

import re
from pathlib import Path

from convert import cli as convert_cli
from edge_agent import cli
from edge_agent.core.codes import Code, CommandCode
from edge_agent.status.alarms import ALARMS
from edge_agent.status.health import REASONS
from edge_agent.status.presence import State
from edge_agent.tools.watch import watch
from tests.docs.pages import table

PACKAGE = Path(__file__).parents[2] / "edge_agent"


def source() -> str:
    return "".join(path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py")))


def names(title: str) -> list[str]:
    """What the first column holds; of several words, the first one that is code."""
    cells = [row[0] for row in table("troubleshooting", title)]
    return [cell.split("`")[1] if "`" in cell else cell for cell in cells]


def test_every_code_of_a_reply_has_a_row_with_its_status() -> None:
    shown = [(row[0].strip("`"), row[1].strip("`")) for row in table("troubleshooting", "Reply codes")]
    assert shown == [(code.value, code.status.value) for code in Code]


def test_every_reason_alarm_state_and_code_has_a_row() -> None:
    assert names("Health reasons") == list(REASONS)
    assert names("Alarms") == [rule.name for rule in ALARMS]
    assert names("Command codes") == list(CommandCode)
    assert set(State) <= set(names("States"))
    parts = (cli, watch, convert_cli)
    codes = {value for part in parts for name, value in vars(part).items() if name.startswith("EXIT_")}
    assert {int(name) for name in names("Exit codes")} == codes


def test_lines_of_the_log_are_those_of_the_source() -> None:
    text = source()
    shown = [line for row in table("troubleshooting", "Log lines") for line in re.findall(r"`([^`]+)`", row[0])]
    assert len(shown) > 10
    assert not [part for line in shown for part in line.split("…") if part.strip() not in text]
