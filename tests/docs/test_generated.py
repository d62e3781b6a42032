"""The generated pages are those of the code, and say something of everything."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from docs.generate import pages
from edge_agent.core.kinds.registry import KINDS
from edge_agent.tools.schema.schema import json_schema
from tests.docs.pages import page, samples


def test_pages_are_not_stale() -> None:
    for path, text in pages().items():
        assert path.read_text("utf-8") == text, "run python -m docs.generate"


@pytest.mark.parametrize("columns", ["40", "300"])
def test_pages_depend_neither_on_the_terminal_nor_on_the_user(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pages()
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("HOME", "/nonexistent/home")
    assert pages() == before
    assert not [text for text in before.values() if str(Path.home()) in text or str(Path(__file__).parents[2]) in text]


@pytest.mark.parametrize("text", pages().values(), ids=("configuration", "cli"))
def test_every_row_says_something_that_markdown_shows(text: str) -> None:
    rows = [re.sub(r"`[^`]*`", "code", line) for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 50
    assert not [row for row in rows if re.search(r"\|\s*\||–|<|None|%\(", row)]
    widths = {row.count("|") for row in rows}
    assert widths <= {3, 5}


def test_the_complete_configuration_has_every_key() -> None:
    (complete,) = (tomllib.loads(text) for text in samples("configuration", "toml") if "[device]" in text)
    schema = json_schema("config")
    of_tasks = {key for table in KINDS.values() for key in schema["$defs"][table.__name__]["properties"]}
    assert of_tasks == {key for task in complete["tasks"].values() for key in task}
    # `public_keys` takes the place of `public_key`.
    of_model = schema["$defs"]["ModelConfig"]["properties"].keys() - {"public_key"}
    assert complete["models"]["default"].keys() == of_model

    def missing(keys: dict[str, Any], table: dict[str, Any], path: str = "") -> list[str]:
        found = []
        for key, value in keys.items():
            if key not in table:
                found.append(f"{path}{key}")
            elif inner := schema["$defs"].get(value.get("$ref", "").rpartition("/")[2]):
                found += missing(inner["properties"], table[key], f"{path}{key}.")
        return found

    assert not missing(schema["properties"], complete)


def test_every_command_is_on_the_page() -> None:
    for command in ("edge-agent init", "edge-agent run", "edge-convert", "edge-convert verify"):
        assert f"\n## {command}\n" in page("cli")
    assert page("cli").count("Exit codes: ") == page("cli").count("\n## ")
