"""ARCHITECTURE.md's map names what is there, and a kind of task is named in few files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAP = re.search(r"```\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.DOTALL)


def test_the_map_names_every_package_and_every_top_level_module_of_the_daemon() -> None:
    assert MAP is not None
    daemon = MAP[1][: MAP[1].index("\nconvert/")]
    packages = {path.parent.name for path in (ROOT / "edge_agent").glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/", daemon, re.MULTILINE)) == packages
    modules = {path.name for path in (ROOT / "edge_agent").glob("*.py") if not path.stem.startswith("__")}
    assert set(re.findall(r"\b(\w+\.py)\b", daemon)) >= modules


def test_files_that_the_map_names_exist() -> None:
    assert MAP is not None
    existing = {path.name for folder in ("edge_agent", "convert", "rigs") for path in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"\b\w+\.py\b", MAP[1])) <= existing


# A kind is named by its name, its classes, its keys and fields. An estimate of requests/forecast is a time.
_NAMES = {
    # Its model, UsualReadings, also says what is unlike a trained task's rows, but only this kind has it in a file.
    "unusual": re.compile(
        r"(?i)unusual|usual_?(readings_?file|engine|command|report|training)|read_usual|false_alarms"
    ),
    "estimate": re.compile(
        r"kinds\.estimate|learning\.estimates|[` \"]estimate[`\"]|EstimateTask|with_number|number_quality"
        r"|Number(Plan|Bins|Answers?|Quality|Accuracy|Export)"
    ),
}
_OWN = {"unusual": re.compile(r"/(un)?usual"), "estimate": re.compile(r"/(estimates?|numbers)\.py")}
# The other files of the product that name it, because what a kind adds to them cannot be in a file of its own.
_NAMED_IN = {
    "unusual": [
        "convert/agent.py",
        "convert/learning/commands.py",
        "edge_agent/core/kinds/registry.py",
        "edge_agent/engine/students.py",
        "edge_agent/learning/learning.py",
        "edge_agent/models/bundle.py",
        "edge_agent/tools/schema/info.json",
        "edge_agent/tools/schema/reply.json",
        # Such an audit is not blind, because its fields say what to look at.
        "edge_agent/web/checks.py",
        "edge_agent/web/marks.py",
        "edge_agent/web/static/words/de.json",
        "edge_agent/web/static/words/en.json",
    ],
    # More than 8, as a plan of its own is a case of each engine, and figures of its own are a part of each report.
    "estimate": [
        "convert/agent.py",
        "convert/learning/report.py",
        "convert/learning/summary.py",
        "convert/learning/table.py",
        "convert/learning/training.py",
        "edge_agent/core/kinds/registry.py",
        "edge_agent/core/pipe.py",
        "edge_agent/engine/active_request.py",
        "edge_agent/engine/echo.py",
        "edge_agent/gguf/field_table.py",
        "edge_agent/learning/commands/accuracy/accuracy.py",
        "edge_agent/learning/learning.py",
        "edge_agent/learning/maths/export.py",
        "edge_agent/tools/schema/health.json",
        "edge_agent/tools/schema/info.json",
        "edge_agent/tools/schema/reply.json",
    ],
}


@pytest.mark.parametrize("kind", _NAMES)
def test_few_files_name_a_kind_beside_its_own(kind: str) -> None:
    named_in = [
        str(path.relative_to(ROOT))
        for folder in ("convert", "edge_agent")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".py", ".json", ".jinja"}
        if not _OWN[kind].search(f"/{path.relative_to(ROOT)}") and _NAMES[kind].search(_code(path))
    ]
    assert named_in == _NAMED_IN[kind]


def _code(path: Path) -> str:
    """All names and texts of a module, without its comments and docstrings; other files as they are."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return text
    nodes = list(ast.walk(ast.parse(text)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    words = list[str]()
    for node in nodes:
        values = [value for _, value in ast.iter_fields(node) if isinstance(value, str) and id(node) not in docstrings]
        words += (f'"{value}"' for value in values) if isinstance(node, ast.Constant) else values
    return "\n".join(words)
