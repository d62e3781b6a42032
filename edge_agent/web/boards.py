"""The rows as the page reads them. Each is encoded once per change, and a viewer gets only what it has not seen.

A cursor counts changes. It starts from the time of this process's start, so it never matches an earlier process's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_agent.core.kinds.classify import MAX_LABELS
from edge_agent.core.strict_json import compact_json, encode
from edge_agent.core.wording import printable
from edge_agent.tools.watch.site import (
    DEFAULT_INTERVAL_S,
    Document,
    Row,
    is_critical,
    number_at,
    object_at,
    text_at,
    time_at,
    with_details,
)
from edge_agent.web.journal import Entry

# The most in one board's row.
_MAX_ALARMS = 20
_MAX_TASKS = 64
_MAX_LABEL_CHARS = 300
# A viewer who has missed more removals than that gets everything again.
_MAX_GONE = 1000
# Times are computed from ages, so they jitter.
_SAME_TIME_S = 0.5
_CHANGES_PER_S = 1_000_000


@dataclass(slots=True, kw_only=True)
class _Board:
    version: int = 0
    since: float | None = None
    health_at: float | None = None
    document: Document = field(default_factory=dict)
    encoded: bytes = b""


class Boards:
    """Hold the lock of `live.Live` to use it.

    Args:
        started_at: Seconds since 1970.
    """

    def __init__(self, started_at: float) -> None:
        self._first = self.cursor = int(started_at) * _CHANGES_PER_S
        self._boards: dict[str, _Board] = {}
        self._gone: dict[str, int] = {}
        self._gone_from = self._first
        self._summarize((), {}, 0)

    def update(
        self,
        rows: Sequence[Row],
        wall: float,
        *,
        open_checks: Mapping[str, int],
        unproven: Mapping[str, list[Document]],
        alarms_last_hour: int,
        seen: Mapping[tuple[str, str], Entry],
    ) -> None:
        """Takes the current rows, worst first.

        Args:
            open_checks: How many checks of each board wait for a person.
            unproven: How far the promises of boards are that have the reason `promise-unproven`.
            seen: Who has seen which alarm, by board and alarm.
        """
        next_cursor = self.cursor + 1
        is_changed = False
        for row in rows:
            board = self._boards.get(row.device)
            if board is None:
                self._gone.pop(row.device, None)
                board = self._boards[row.device] = _Board()
            board.since = _time_of(row.level_age_s, wall, board.since)
            board.health_at = _time_of(row.health_age_s, wall, board.health_at)
            document = _board_document(row, board, open_checks[row.device], seen)
            document["unproven"] = unproven.get(row.device, [])
            if document != board.document:
                board.document, board.encoded, board.version = document, encode(document), next_cursor
                is_changed = True
        for device in self._boards.keys() - {row.device for row in rows}:
            del self._boards[device]
            self._gone[device] = next_cursor
            is_changed = True
        while len(self._gone) > _MAX_GONE:
            device = next(iter(self._gone))
            self._gone_from = self._gone.pop(device)
        if is_changed:
            self.cursor = next_cursor
        self._summarize(rows, open_checks, alarms_last_hour)

    def _summarize(self, rows: Sequence[Row], open_checks: Mapping[str, int], alarms_last_hour: int) -> None:
        """Encodes what describes all boards together."""
        self._summary = compact_json(
            {
                "counts": dict(Counter(row.level.name.lower() for row in rows)),
                "order": [printable(row.device) for row in rows],
                "pools": _pools(rows),
                "open_checks": sum(open_checks.values()),
                "alarms_last_hour": alarms_last_hour,
            }
        )[1:-1].encode()

    def document(self, device: str) -> Document | None:
        """A board's row, or None if there is no such board."""
        board = self._boards.get(device)
        return None if board is None else board.document

    def changes(self, after: int | None, now: Document) -> bytes:
        """What has changed since a cursor, as JSON; everything if the cursor is unknown. `now` is sent every time."""
        is_whole = after is None or not self._gone_from <= after <= self.cursor or after == self._first
        since = self._first if is_whole or after is None else after
        boards = b",".join(board.encoded for board in self._boards.values() if board.version > since)
        gone = [] if is_whole else [printable(device) for device, version in self._gone.items() if version > since]
        head = compact_json({**now, "cursor": self.cursor, "is_whole": is_whole, "gone": gone})[:-1].encode()
        return b"".join((head, b",", self._summary, b',"boards":[', boards, b"]}"))


def escaped(value: Any) -> Any:
    """A value from the bus with its control and bidirectional characters escaped, as it may leave the server."""
    if isinstance(value, str):
        return value if value.isprintable() else printable(value)
    if isinstance(value, dict):
        return {escaped(name): escaped(item) for name, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value


def task_documents(row: Row, promises: Mapping[str, Document | None], open_checks: Mapping[str, int]) -> list[Document]:
    """A board's tasks, which only its own screen shows.

    Args:
        promises: What each task's promise still needs.
        open_checks: How many checks of each task wait for a person.
    """
    return [
        {**_task(row, name, task, promises), "open_checks": open_checks.get(name, 0)} for name, task in tasks_of(row)
    ]


def tasks_of(row: Row) -> list[tuple[str, Document]]:
    """The tasks that `info` names."""
    named = list(object_at(row.info, "tasks").items())[:_MAX_TASKS]
    return [(name, task) for name, task in named if isinstance(task, dict)]


def labels_of(task: Document) -> list[str] | None:
    """A task's labels as far as an agent takes them; each check and answer on the page comes with them."""
    labels = task.get("labels")
    if not isinstance(labels, list):
        return None
    return [label for label in labels[:MAX_LABELS] if isinstance(label, str) and len(label) <= _MAX_LABEL_CHARS]


def _task(row: Row, name: str, task: Document, promises: Mapping[str, Document | None]) -> Document:
    entry = object_at(row.health, "accuracy").get(name)
    return {
        "name": printable(name[:64]),
        "kind": _printable(text_at(task, "kind")),
        "labels": escaped(labels_of(task)),
        "publish": _printable(text_at(task, "publish")),
        **{key: number_at(task, key) for key in ("audit_rate", "min_accuracy", "confidence")},
        "accuracy": escaped(entry) if isinstance(entry, dict) else None,
        "promise": promises.get(name),
    }


def _time_of(age_s: float | None, wall: float, before: float | None) -> float | None:
    """When that was. It stays as it was before if only the clocks differ."""
    if age_s is None:
        return None
    at = round(wall - age_s, 1)
    return before if before is not None and abs(at - before) < _SAME_TIME_S else at


def _board_document(row: Row, board: _Board, open_checks: int, seen: Mapping[tuple[str, str], Entry]) -> Document:
    health = row.health
    depth = number_at(health, "queue.depth")
    return {
        "device": printable(row.device),
        "level": row.level.name.lower(),
        # `health_at` says how old it is, and a phrase that changes each second would be sent each second.
        "why": [printable(with_details(phrase, row)) for phrase in row.why if not phrase.startswith("last health ")],
        "since": board.since,
        "alarms": [
            _alarm_document(name, alarm, seen.get((row.device, name[:64]))) for name, alarm in row.alarms[:_MAX_ALARMS]
        ],
        "health_at": board.health_at,
        "health_interval_s": number_at(row.info, "limits.health_interval_s") or DEFAULT_INTERVAL_S,
        "model": _printable(row.model_words),
        "queue": None if depth is None else [depth, number_at(health, "queue.capacity")],
        "soc_c": number_at(health, "thermal.soc_c"),
        "headroom_c": number_at(health, "thermal.headroom_c"),
        "p95_ms": number_at(health, "inference.latency_ms.p95"),
        "tok_s": number_at(health, "inference.decode_tok_s"),
        "watts": number_at(health, "power.watts"),
        "pool": _printable(text_at(health, "pool.name")),
        "open_checks": open_checks,
    }


def _alarm_document(name: str, alarm: Document, seen: Entry | None) -> Document:
    return {
        "name": printable(name[:64]),
        "severity": "critical" if is_critical(alarm) else "warning",
        "message": _printable(text_at(alarm, "message")),
        "since": time_at(alarm, "since"),
        "seen": None if seen is None else {"by": _printable(seen.by), "at": seen.at},
    }


def _printable(text: str | None) -> str | None:
    return None if text is None else printable(text)


def _pools(rows: Iterable[Row]) -> list[Document]:
    """The pools named by boards with fresh health, with sums over these; null where no board gives the figure."""
    pools: dict[str, list[Row]] = {}
    for row in rows:
        if (name := text_at(row.health, "pool.name")) is not None:
            pools.setdefault(name, []).append(row)
    return [
        {
            "name": printable(name),
            "boards": len(boards),
            "places": _sum(boards, "pool.places"),
            "per_minute": _sum(boards, "pool.per_minute"),
        }
        for name, boards in sorted(pools.items())
    ]


def _sum(rows: Iterable[Row], path: str) -> float | None:
    known = [value for row in rows if (value := number_at(row.health, path)) is not None]
    return sum(known) if known else None
