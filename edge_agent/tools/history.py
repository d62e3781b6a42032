"""`edge-agent history`: what happened at a site, from the journal that `edge-agent web` keeps."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_agent.core.clock import rfc3339
from edge_agent.core.strict_json import number_of
from edge_agent.core.terminal import UNKNOWN, aligned, fail
from edge_agent.core.wording import printable, printable_json, shown_path

_DAY_S = 86_400.0
# The year 2100: what is later is no time of a journal.
_MAX_TIME = 4_102_444_800
Entry = dict[str, Any]


def default_folder() -> Path:
    """Where the page keeps journals, in a folder for each site."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "edge-agent" / "web"


def history(folder: Path, *, since: float | None, until: float | None, device: str | None, as_json: bool) -> int:
    """Prints the entries, by default of the last day, oldest first. Returns the exit code."""
    files = sorted(folder.rglob("????-??-??-*.jsonl"), key=lambda path: path.name)
    if not files:
        return fail(f"{shown_path(folder)} holds no journal: `edge-agent web` keeps one while it runs")
    since = time.time() - _DAY_S if since is None else since
    # Files are named by their days in UTC; the entry of a gap is in the file of its end.
    first_day = rfc3339(max(0.0, since))[:10]
    try:
        entries = [entry for path in files if path.name >= first_day for entry in _entries(path)]
    except OSError as error:
        return fail(f"{shown_path(folder)} cannot be read: {error.strerror}")
    entries = [
        entry
        for entry in sorted(entries, key=lambda entry: float(entry["at"]))
        if _last(entry) >= since
        and (until is None or entry["at"] < until)
        and (device is None or entry.get("device") in (device, None))
    ]
    if as_json:
        print(printable_json({"entries": entries}))
    else:
        rows = [(_clock(entry["at"]), str(entry.get("device") or UNKNOWN), _words(entry)) for entry in entries]
        for line in aligned(rows, left=3) if rows else ("nothing has happened",):
            print(printable(line))
    return 0


def _entries(path: Path) -> Iterator[Entry]:
    """The lines that were written whole. Raises OSError."""
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and 0 <= (number_of(entry.get("at")) or -1) < _MAX_TIME:
            yield entry


def _last(entry: Entry) -> float:
    return number_of(entry.get("until")) or float(entry["at"])


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _words(entry: Entry) -> str:
    """What happened, to whom it is owed, and what was said of it."""
    name, what = entry.get("name"), entry.get("what")
    match what:
        case "level":
            head = f"is {name}"
        case "alarm":
            head = f"alarm {name}, {entry.get('severity')}"
        case "alarm-end":
            head = f"alarm {name} has ended"
        case "page-was-off":
            head = f"nothing was recorded until {_clock(_last(entry))}"
        case _:
            head = " ".join(str(part) for part in (what if what != "event" else None, name) if part)
    head += f" by {entry['by']}" if entry.get("by") else ""
    return f"{head}: {entry['text']}" if entry.get("text") else head
