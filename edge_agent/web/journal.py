"""What has happened at the site, and when this process did not run, as JSON lines in bounded files.

Entries are added under the lock of `live.Live`. The files may be read at any time without it.
"""

import csv
import io
import json
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from edge_agent.core.clock import rfc3339
from edge_agent.core.strict_json import compact_json, encode
from edge_agent.core.wording import cut, printable

log = logging.getLogger(__name__)

MAX_DAYS = 90
MAX_BYTES = 50_000_000
_MAX_FILE_BYTES = 5_000_000
_DAY_S = 86_400
# Kept in memory as well, for the screens of boards and the count of alarms within the hour.
_MAX_RECENT = 5_000
# For each kind of event of a board, so that one that never stops publishing cannot push out the other entries.
MAX_PER_MINUTE = 30
_UNLIMITED_EVENTS = (
    "command",
    "model-fallback",
    "model-switched",
    "model-switch-failed",
    "promise-lost",
    "promise-proven",
)
_ALIVE_S = 60.0
_MAX_TEXT = 500
# The year 2100, after which nothing is the time of an entry.
_MAX_TIME = 4_102_444_800
_FILE = re.compile(r"(\d{4}-\d\d-\d\d)-\d{4}\.jsonl")
# Where spreadsheets begin a formula; where decimals have a comma, a semicolon begins a cell.
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Its texts come from boards and people as they are; only `as_json` escapes them."""

    at: float
    """Seconds since 1970, by the clock of this machine."""
    what: str
    """level, alarm, alarm-end, alarm-void (its board is gone or has reconnected), event, feedback, seen,
    page-started, page-was-off, broker-lost or broker-back.
    """
    device: str | None = None
    name: str | None = None
    text: str | None = None
    severity: str | None = None
    by: str | None = None
    until: float | None = None
    id: str | None = None
    """The id of the request that feedback is about."""

    def as_json(self) -> dict[str, Any]:
        return {
            key: printable(cut(value, _MAX_TEXT)) if isinstance(value, str) else value
            for key, value in asdict(self).items()
        }


def default_folder() -> Path:
    """Where journals are kept unless `--data` says otherwise, in a folder for each site."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "edge-agent" / "web"


class Journal:
    """Files of at most MAX_FILE_BYTES each, named by their day in UTC and a number.

    While the disk fails, entries are kept only in memory, and the log says so.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, max_file_bytes: int = _MAX_FILE_BYTES) -> None:
        self.folder = folder
        self._max_bytes, self._max_file_bytes = max_bytes, max_file_bytes
        self._recent: deque[Entry] = deque(maxlen=_MAX_RECENT)
        self.seen: dict[tuple[str, str], Entry] = {}
        """Who has seen which active alarm within the last day, by board and alarm."""
        self._alive = folder / "alive"
        self._alive_at = 0.0
        self._minute = 0
        self._in_minute: Counter[tuple[str | None, str | None]] = Counter()
        self._has_failed = False

    def start(self, wall: float) -> None:
        """Records how long no process has run here, and that one runs now."""
        for entry in self.read(since=wall - _DAY_S, limit=_MAX_RECENT)[::-1]:
            self._keep(entry)
        try:
            was_alive_at: float | None = self._alive.stat().st_mtime
        except OSError:
            was_alive_at = None
        if was_alive_at is not None:
            # One that was killed had noted it up to a minute before.
            newest = self.read(since=was_alive_at, until=wall, has_feedback=True, limit=1)
            was_alive_at = max([was_alive_at, *(entry.until or entry.at for entry in newest)])
        if was_alive_at is not None and was_alive_at <= wall:
            self.add(Entry(at=was_alive_at, what="page-was-off", until=wall))
        self.add(Entry(at=wall, what="page-started"))
        self.tick(wall)

    def tick(self, wall: float) -> None:
        """Records once a minute that this process is alive, and removes old files."""
        if 0 <= wall - self._alive_at < _ALIVE_S:
            return
        self._alive_at = wall
        try:
            self._alive.touch(mode=0o600)
            os.utime(self._alive, (wall, wall))
            self._prune(wall)
        except OSError as error:
            self._fail(error)

    def stop(self, wall: float) -> None:
        self._alive_at = 0.0
        self.tick(wall)

    def add(self, entry: Entry) -> None:
        if entry.what == "event" and entry.by is None and entry.name not in _UNLIMITED_EVENTS:
            count = self._count_in_minute(entry)
            if count > MAX_PER_MINUTE + 1:
                return
            if count > MAX_PER_MINUTE:
                text = f"more than {MAX_PER_MINUTE} events {entry.name} in this minute: the others are left out"
                entry = replace(entry, name="left-out", text=text)
        self._keep(entry)
        # The newline comes first, because after a power failure the last line may be incomplete.
        line = b"\n" + encode(entry.as_json())
        try:
            path = self._file_for(entry.until or entry.at, len(line))
            if not path.exists():
                self._prune(entry.until or entry.at)
            with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(line)
            self._has_failed = False
        except OSError as error:
            self._fail(error)

    def _keep(self, entry: Entry) -> None:
        # What people answer, up to one entry a second, would push out the rest.
        if entry.what != "feedback":
            self._recent.append(entry)
        if entry.device is None or entry.name is None:
            return
        if entry.what == "seen":
            self.seen[entry.device, entry.name] = entry
        elif entry.what in ("alarm", "alarm-end", "alarm-void"):
            self.seen.pop((entry.device, entry.name), None)

    def _count_in_minute(self, entry: Entry) -> int:
        if (minute := int(entry.at // 60)) != self._minute:
            self._minute = minute
            self._in_minute.clear()
        self._in_minute[entry.device, entry.name] += 1
        return self._in_minute[entry.device, entry.name]

    def _fail(self, error: OSError) -> None:
        if not self._has_failed:
            log.warning("the journal cannot be written in %s: %s", self.folder, error.strerror)
        self._has_failed = True

    def _file_for(self, at: float, more_bytes: int) -> Path:
        day = rfc3339(at)[:10]
        number = 1
        for path in self._files():
            name = _FILE.fullmatch(path.name)
            if name is not None and name[1] == day:
                number = int(path.stem[-4:])
                number += path.stat().st_size + more_bytes > self._max_file_bytes
        return self.folder / f"{day}-{number:04}.jsonl"

    def _files(self) -> list[Path]:
        """Oldest first."""
        try:
            return sorted(path for path in self.folder.iterdir() if _FILE.fullmatch(path.name))
        except OSError:
            return []

    def _prune(self, wall: float) -> None:
        """Raises OSError."""
        oldest_day = rfc3339(max(0.0, wall - MAX_DAYS * _DAY_S))[:10]
        files = self._files()
        sizes = {path: path.stat().st_size for path in files}
        # Leaves room for one more file, because the next one calls this again.
        while files and (files[0].name < oldest_day or sum(sizes.values()) > self._max_bytes - self._max_file_bytes):
            path = files.pop(0)
            del sizes[path]
            path.unlink()

    def recent(self, since: float, device: str | None = None) -> list[Entry]:
        """Entries still in memory, newest first, but no feedback. With `device`, this board's and those of no board."""
        return [
            entry
            for entry in reversed(self._recent)
            if (entry.until or entry.at) >= since and (device is None or entry.device in (device, None))
        ]

    def alarms_since(self, since: float) -> int:
        return sum(entry.what == "alarm" and entry.at >= since for entry in self._recent)

    def read(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        device: str | None = None,
        what: frozenset[str] = frozenset(),
        has_feedback: bool = False,
        limit: int,
    ) -> list[Entry]:
        """Entries of `what` from the files, newest first; by default all, but feedback only if `has_feedback`."""
        # Most lines belong to other boards, so they are not parsed.
        needle = b"" if device is None else compact_json(device).encode()
        entries = (
            entry
            for entry in self._entries(since, until, needle)
            if device in (None, entry.device)
            and (entry.what in what if what else has_feedback or entry.what != "feedback")
        )
        return list(islice(entries, limit))

    def all_of(self, *what: str) -> Iterator[Entry]:
        """All entries of `what`, oldest first, read line by line."""
        needles = [compact_json(each).encode() for each in what]
        for path in self._files():
            with suppress(OSError), path.open("rb") as file:
                for line in file:
                    entry = _entry_of(line) if any(needle in line for needle in needles) else None
                    if entry is not None and entry.what in what:
                        yield entry

    def _entries(self, since: float | None, until: float | None, needle: bytes) -> Iterator[Entry]:
        for path in reversed(self._files()):
            if since is not None and path.name < rfc3339(min(max(0.0, since), _MAX_TIME))[:10]:
                return
            try:
                lines = path.read_bytes().splitlines()
            except OSError:  # It was removed meanwhile.
                continue
            for line in reversed(lines):
                entry = _entry_of(line) if needle in line else None
                if entry is None or (since is not None and (entry.until or entry.at) < since):
                    continue
                if until is None or entry.at < until:
                    yield entry


_KEYS = {field.name for field in fields(Entry)}


def _entry_of(line: bytes) -> Entry | None:
    """None if the line is incomplete or damaged."""
    try:
        document = json.loads(line)
        entry = Entry(**{key: value for key, value in document.items() if key in _KEYS})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = (entry.device, entry.name, entry.text, entry.severity, entry.by, entry.id)
    is_sound = isinstance(entry.what, str) and all(text is None or isinstance(text, str) for text in texts)
    return entry if is_sound and _is_time(entry.at) and _is_time(entry.until or 0) else None


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < _MAX_TIME


def as_csv(entries: list[Entry]) -> str:
    """CSV with times that spreadsheets understand, and without cells that they would calculate."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["at", "until", "device", "what", "name", "text", "severity", "by"])
    for entry in entries:
        shown = entry.as_json()
        times = (rfc3339(entry.at), "" if entry.until is None else rfc3339(entry.until))
        rest = (shown[key] or "" for key in ("device", "what", "name", "text", "severity", "by"))
        writer.writerow([*times, *(_FORMULA.sub(r"\1'", cell) for cell in rest)])
    return text.getvalue()
