"""PURE. The columns of the table: what is in them, and which of them a width has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.text import Text

from edge_agent.tools.watch.board import HISTORY_S
from edge_agent.tools.watch.cells import cropped, curve, safe, shortened
from edge_agent.tools.watch.documents import Health
from edge_agent.tools.watch.row import Level, Moment, Row

UNKNOWN = "–"
STYLES = {
    Level.CRITICAL: "bold white on red",
    Level.OFFLINE: "bold white on red",
    Level.STALE: "bold black on yellow",
    Level.DEGRADED: "bold yellow",
    Level.UNKNOWN: "magenta",
    Level.STARTING: "cyan",
    Level.DRAINING: "cyan",
    Level.STOPPED: "dim",
    Level.OK: "green",
}
# What calls for somebody is in capitals: it must be seen without colours too.
SHOUTED = (Level.CRITICAL, Level.OFFLINE, Level.STALE)
_SHORT_CAUSES = {"undervoltage": "low volt", "over-current": "current"}
COOL_C, USUAL_LIMIT_C = 30.0, 85.0
NARROW_CURVE, WIDE_CURVE = 10, 30
USUAL_NAME, MAX_NAME = 24, 64


@dataclass(frozen=True, slots=True)
class Column:
    """cell: what a row shows there, given the column's width. Numbers stand at the right."""

    title: str
    width: int
    cell: Callable[[Row, int], Text]
    is_number: bool = True


def level_word(level: Level) -> str:
    return level.name if level in SHOUTED else level.name.lower()


def _name(row: Row, width: int) -> Text:
    return Text(shortened(safe(row.device), width), "bold")


def _state(row: Row, width: int) -> Text:
    return Text(cropped(level_word(row.level), width), STYLES[row.level])


def _figure(tell: Callable[[Health], str | Text | None]) -> Callable[[Row, int], Text]:
    """The cell of something that only a fresh health document tells."""

    def cell(row: Row, width: int) -> Text:
        told = tell(row.figures) if row.figures is not None else None
        if told is None:
            return Text(UNKNOWN, "dim")
        text, style = (told.plain, told.style) if isinstance(told, Text) else (told, "")
        return Text(cropped(safe(text), width), style)

    return cell


def _heat_style(headroom_c: float | None) -> str:
    if headroom_c is None:
        return ""
    return "red" if headroom_c < 3 else "yellow" if headroom_c < 10 else "green"


def _temperature(health: Health) -> Text | None:
    return None if health.soc_c is None else Text(f"{health.soc_c:.0f}°", _heat_style(health.headroom_c))


def _headroom(health: Health) -> Text | None:
    return None if health.headroom_c is None else Text(f"{health.headroom_c:.0f}°", _heat_style(health.headroom_c))


def _throttle(health: Health) -> Text | None:
    if health.is_throttled:
        cause = health.throttle_causes[0] if health.throttle_causes else "now"
        return Text(_SHORT_CAUSES.get(cause, cause), "bold red")
    if health.is_undervolted:
        return Text(_SHORT_CAUSES["undervoltage"], "bold red")
    if health.is_throttled is None and health.is_undervolted is None:
        return None
    return Text("earlier", "yellow") if health.was_throttled or health.was_undervolted else Text("no", "dim")


def _queue(health: Health) -> Text | None:
    depth, capacity = health.queue_depth, health.queue_capacity
    if depth is None:
        return None
    is_long = capacity is not None and depth >= capacity / 2
    return Text(f"{depth}/{UNKNOWN if capacity is None else capacity}", "yellow" if is_long else "")


def _decode(health: Health) -> Text | None:
    return None if health.decode_tok_s is None else Text(short(health.decode_tok_s), "" if health.active else "dim")


def _watts(health: Health) -> Text | None:
    """Watts of less than the whole board are told by a letter: module, soc, rails."""
    if health.watts is None:
        return None
    scope = health.watts_scope
    return Text(short(health.watts) + (f" {scope[:1]}" if scope and scope != "board" else ""))


def _per_second(tell: Callable[[Row], float | None]) -> Callable[[Row, int], Text]:
    def cell(row: Row, _width: int) -> Text:
        value = tell(row)
        return Text(UNKNOWN, "dim") if value is None else Text(short(value))

    return cell


def _optional(value: float | None, unit: str = "") -> str | None:
    return None if value is None else f"{short(value)}{unit}"


def _governor(health: Health) -> Text | None:
    level = health.governor_level
    return None if level is None else Text(level, "dim" if level == "normal" else "yellow")


def _model(row: Row, width: int) -> Text:
    told = " ".join(part for part in (row.model, row.quantization) if part)
    return Text(shortened(safe(told), width)) if told else Text(UNKNOWN, "dim")


def _heat_curve(row: Row, width: int) -> Text:
    hottest = [_hottest(moments) for moments in _buckets(row.history, width)]
    limits = [moment.limit_c for moment in row.history if moment.limit_c is not None]
    limit = limits[-1] if limits else USUAL_LIMIT_C
    rooms = [None if not limits or value is None else limit - value for value in hottest]
    return curve(hottest, COOL_C, limit, [_heat_style(room) for room in rooms])


def _work_curve(row: Row, width: int) -> Text:
    buckets = [[moment.tokens_s for moment in moments] for moments in _buckets(row.history, width)]
    known = [[value for value in bucket if value is not None] for bucket in buckets]
    means = [sum(values) / len(values) if values else None for values in known]
    highest = max((value for value in means if value is not None), default=0.0)
    return curve(means, 0.0, highest, ["cyan"] * width)


def _hottest(moments: list[Moment]) -> float | None:
    return max((moment.soc_c for moment in moments if moment.soc_c is not None), default=None)


def _buckets(history: Sequence[Moment], width: int) -> list[list[Moment]]:
    """The last HISTORY_S in so many equal parts, the latest at the end."""
    buckets: list[list[Moment]] = [[] for _ in range(width)]
    for moment in history:
        place = int(moment.age_s / HISTORY_S * width)
        if 0 <= place < width:
            buckets[width - 1 - place].append(moment)
    return buckets


def short(value: float) -> str:
    """At most five characters up to a million: `0`, `0.45`, `82.3`, `1234`, `56k`."""
    if value == 0:
        return "0"
    if value < 0.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 9999.5 else f"{value / 1000:.0f}k"


# In the order of their importance: those for which there is room are shown.
_ESSENTIAL = (
    Column("BOARD", 15, _name, is_number=False),
    Column("STATE", 8, _state, is_number=False),
    Column("TEMP", 4, _figure(_temperature)),
    Column("ROOM", 4, _figure(_headroom)),
    Column("THROTTLE", 8, _figure(_throttle), is_number=False),
    Column("QUEUE", 7, _figure(_queue)),
    Column("TOK/S", 5, _figure(_decode)),
    Column("WATTS", 6, _figure(_watts)),
    Column("TEMP 5 MIN", NARROW_CURVE, _heat_curve, is_number=False),
)
_FURTHER = (
    Column("REQ/S", 5, _per_second(lambda row: row.requests_s)),
    Column("P95 MS", 6, _figure(lambda health: _optional(health.latency_p95_ms))),
    Column("GOVERNOR", 8, _figure(_governor), is_number=False),
    Column("WORK 5 MIN", NARROW_CURVE, _work_curve, is_number=False),
    Column("CPU %", 5, _figure(lambda health: _optional(health.cpu_percent))),
    Column("READ/S", 6, _figure(lambda health: _optional(health.prefill_tok_s))),
    Column("FREE MB", 7, _figure(lambda health: _optional(health.memory_available_mb))),
    Column("MODEL", 20, _model, is_number=False),
)
_CURVES = (_heat_curve, _work_curve)


def columns_for(width: int, rows: Sequence[Row]) -> list[Column]:
    """Those that fit, as wide as fits: first names get more, then there are more columns, then curves get longer."""
    longest = max((cell_len(safe(row.device)) for row in rows), default=0)
    chosen, left = _fitting(_ESSENTIAL, width + 1)
    left = _widen(chosen, 0, min(longest, USUAL_NAME), left)
    if len(chosen) == len(_ESSENTIAL):
        more, left = _fitting(_FURTHER, left)
        chosen += more
    left = _widen(chosen, 0, min(longest, MAX_NAME), left)
    for place, column in enumerate(chosen):
        if column.cell in _CURVES:
            left = _widen(chosen, place, WIDE_CURVE, left)
    return [replace(column, width=min(column.width, width)) for column in chosen]


def _fitting(columns: Sequence[Column], room: int) -> tuple[list[Column], int]:
    """The first ones that fit side by side, a blank before each, but at least one of the essential; what is left."""
    chosen: list[Column] = []
    for column in columns:
        if column.width + 1 > room and (chosen or columns is not _ESSENTIAL):
            break
        chosen.append(column)
        room -= column.width + 1
    return chosen, max(0, room)


def _widen(columns: list[Column], place: int, wanted: int, room: int) -> int:
    gain = max(0, min(room, wanted - columns[place].width))
    columns[place] = replace(columns[place], width=columns[place].width + gain)
    return room - gain


def head(columns: Sequence[Column]) -> Text:
    return _joined([(Text(cropped(column.title, column.width), "bold dim"), column) for column in columns])


def line(row: Row, columns: Sequence[Column]) -> Text:
    return _joined([(column.cell(row, column.width), column) for column in columns])


def _joined(cells: Sequence[tuple[Text, Column]]) -> Text:
    text = Text()
    for place, (cell, column) in enumerate(cells):
        blanks = " " * max(0, column.width - cell.cell_len)
        text.append(" " if place else "")
        text.append(blanks if column.is_number else "")
        text.append_text(cell)
        text.append("" if column.is_number else blanks)
    return text
