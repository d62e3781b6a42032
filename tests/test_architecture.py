"""ARCHITECTURE.md's map: whoever follows it finds every module, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAP = re.search(r"```\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.DOTALL)
# Told of as a whole, with where to begin.
WHOLE = {"bench", "demo", "diag", "doctor", "watch"}


def test_every_module_of_the_daemon_is_on_the_map_in_its_folder() -> None:
    assert MAP is not None
    daemon = MAP[1][: MAP[1].index("\nconvert/")]
    named: dict[str, set[str]] = {}
    folder = ""
    for line in daemon.splitlines()[1:]:
        # A folder's name stands where modules of the package begin; what belongs to it is indented further.
        if begun := re.match(r"  (\w+)/", line):
            folder = begun[1]
        elif re.match(r"  \S", line):
            folder = ""
        named.setdefault(folder, set()).update(re.findall(r"\b(\w+)\.py", line))
    modules: dict[str, set[str]] = {}
    for path in (ROOT / "edge_agent").rglob("*.py"):
        if not path.stem.startswith("__"):
            place = path.parent.relative_to(ROOT / "edge_agent").as_posix()
            modules.setdefault("" if place == "." else place, set()).add(path.stem)
    assert named.keys() == modules.keys()
    for place, stems in modules.items():
        assert named[place] <= stems, place
        assert place in WHOLE or named[place] == stems, place


def test_files_that_the_map_names_are_there() -> None:
    assert MAP is not None
    there = {
        path.name for folder in ("edge_agent", "convert", "tests", "ansible") for path in (ROOT / folder).rglob("*.py")
    }
    assert set(re.findall(r"\b\w+\.py\b", MAP[1])) - there == set()
