"""ARCHITECTURE.md's map names every package of the daemon, and nothing that is not there."""

import re
from pathlib import Path

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
