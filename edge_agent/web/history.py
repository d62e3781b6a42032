"""`edge-agent history`: what happened at a site, from the journal that `edge-agent web` keeps."""

import os
import sys
import time
from pathlib import Path

from edge_agent.core.terminal import UNKNOWN, aligned, fail
from edge_agent.core.wording import printable, printable_json, shown, shown_path
from edge_agent.web.journal import Entry, Journal

_DAY_S = 86_400.0


def history(
    folder: Path, *, since: float | None, until: float | None, device: str | None, has_feedback: bool, as_json: bool
) -> int:
    """Prints the entries, by default of a day and without feedback, oldest first. Returns the exit code."""
    files = list(folder.rglob("????-??-??-*.jsonl"))
    if not files:
        return fail(
            f"{shown_path(folder)} holds no journal that this account may read: `edge-agent web` keeps one while it "
            "runs, as a service in /var/lib/edge-agent-web, which needs sudo"
        )
    if not all(os.access(file, os.R_OK) for file in files):
        return fail(f"{shown_path(folder)} cannot be read by this account")
    if since is None:
        since = (time.time() if until is None else until) - _DAY_S
    journals = [Journal(site) for site in sorted({file.parent for file in files})]
    if device is not None and not any(journal.read(device=device, has_feedback=True, limit=1) for journal in journals):
        return fail(f"{shown_path(folder)} has no entry of a board {shown(device)}")
    entries = [
        (journal.folder.name, entry)
        for journal in journals
        for entry in reversed(journal.read(since=since, until=until, has_feedback=has_feedback, limit=sys.maxsize))
        if device is None or entry.device in (device, None)
    ]
    entries.sort(key=lambda entry_of: entry_of[1].at)
    # One journal is of the site that its reader means, and its folder may have any name.
    has_sites = len(journals) > 1
    if as_json:
        documents = [({"site": site} if has_sites else {}) | entry.as_json() for site, entry in entries]
        print(printable_json({"entries": documents}))
    else:
        rows = [
            (_clock(entry.at), *([site] if has_sites else []), entry.device or UNKNOWN, _words(entry))
            for site, entry in entries
        ]
        for line in aligned(rows, left=4) if rows else ("nothing has happened",):
            print(printable(line))
    return 0


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _words(entry: Entry) -> str:
    match entry.what:
        case "level":
            head = f"is {entry.name}"
        case "alarm":
            head = f"alarm {entry.name}, {entry.severity}"
        case "alarm-end":
            head = f"alarm {entry.name} has ended"
        case "alarm-void":
            head = f"alarm {entry.name} no longer counts, because its board is gone or has reconnected"
        case "page-was-off":
            head = f"nothing was recorded until {_clock(entry.until or entry.at)}"
        case "event":
            head = entry.name or "event"
        case _:
            head = " ".join(filter(None, (entry.what, entry.name)))
    head += f" by {entry.by}" if entry.by else ""
    return f"{head}: {entry.text}" if entry.text else head
