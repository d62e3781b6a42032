"""PURE. Rows -> the lines of a screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from edge_agent.tools.watch.cells import cropped, safe
from edge_agent.tools.watch.columns import STYLES, columns_for, head, level_word, line
from edge_agent.tools.watch.judgement import duration
from edge_agent.tools.watch.row import ActiveAlarm, Level, Row
from edge_agent.tools.watch.view import View

MAX_DETAILS = 4
INDENT = "  "

ORDERS: dict[str, Callable[[Row], Any]] = {
    "worst first": lambda row: (row.level, row.device),
    "by name": lambda row: row.device,
    "hottest first": lambda row: (
        row.figures is None or row.figures.soc_c is None,
        -(row.figures.soc_c or 0.0) if row.figures else 0.0,
        row.device,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """offset: boards above the screen; boards: how many are on it."""

    lines: list[Text]
    offset: int
    boards: int


def table(view: View, width: int) -> list[Text]:
    """Everything, as long as it is."""
    lines = [_summary(view, width), *_troubles(view, width)]
    if not view.rows:
        return [*lines, Text(cropped(safe(view.empty), width))]
    columns = columns_for(width, view.rows)
    lines.append(head(columns))
    for row in view.rows:
        lines += [line(row, columns), *_details(row, view.wall, width)]
    return lines


def screen(view: View, width: int, height: int, offset: int, order: str) -> Drawn:
    """Exactly `height` lines of at most `width` cells. offset: boards above the screen, as far as there are so many."""
    rows = sorted(view.rows, key=ORDERS[order])
    columns = columns_for(width, rows)
    details = [_details(row, view.wall, width) for row in rows]
    heights = [1 + len(lines) for lines in details]
    above = [_summary(view, width), *_troubles(view, width), head(columns)]
    room = max(1, height - len(above) - 1)
    offset = min(offset, _last_offset(heights, room))
    boards = _boards_in(heights[offset:], room)
    shown = range(offset, offset + boards)
    seen = list(chain.from_iterable([line(rows[i], columns), *details[i]] for i in shown))[:room]
    seen = seen or [Text(cropped(safe(view.empty), width))]
    lines = [*above, *seen, *[Text()] * (room - len(seen))]
    where = f"boards {offset + 1}–{offset + boards} of {len(rows)}" if boards < len(rows) else ""
    return Drawn(lines=[*lines[: height - 1], _footer(where, order, width)][:height], offset=offset, boards=boards)


def _boards_in(heights: Sequence[int], room: int) -> int:
    """How many of the first boards are seen in so many lines, the last one perhaps without all of its details."""
    return min(len(heights), 1 + sum(end < room for end in accumulate(heights)))


def _last_offset(heights: Sequence[int], room: int) -> int:
    """With so many boards above, the last one is seen to its end."""
    return max(0, len(heights) - max(1, sum(end <= room for end in accumulate(reversed(heights)))))


def _summary(view: View, width: int) -> Text:
    counts = Counter(row.level for row in view.rows)
    text = Text(f"{len(view.rows)} board{'' if len(view.rows) == 1 else 's'}")
    for level in sorted(counts):
        style = STYLES[level]
        text.append("  ")
        text.append(f"{counts[level]} {level_word(level)}", style)
    left = Text.assemble((safe(view.site), "bold"), "  ", text)
    right = Text(f"{safe(view.broker)}  {view.clock}", "dim")
    if left.cell_len + right.cell_len + 2 > width:
        right = Text(view.clock, "dim")
    gap = width - left.cell_len - right.cell_len
    if gap >= 2:
        return Text.assemble(left, " " * gap, right)
    left.truncate(width, overflow="ellipsis")
    return left


def _troubles(view: View, width: int) -> list[Text]:
    told = [] if view.trouble is None else [view.trouble]
    if view.is_full:
        told.append("more names on these topics than this can show")
    return [Text(cropped(safe(text), width), "bold white on red") for text in told]


def _details(row: Row, wall: float, width: int) -> list[Text]:
    """What is not as it should be: the lines below a board's own."""
    room = width - len(INDENT)
    alarms = [
        (_alarm_text(active, wall), "bold red" if active.alarm.severity == "critical" else "yellow")
        for active in row.alarms
    ]
    others = [(text, "dim" if row.level is Level.STOPPED else "") for text in _packed(row.why, room)]
    details = [*alarms, *others]
    # At its end an alarm says what to do.
    folded = [(line, style) for text, style in alarms for line in _folded(safe(text), room)] + others
    if len(folded) <= MAX_DETAILS:
        details = folded
    if len(details) > MAX_DETAILS:
        details[MAX_DETAILS - 1 :] = [(f"… and {len(details) - MAX_DETAILS + 1} more", "")]
    return [Text(cropped(INDENT + safe(text), width), style) for text, style in details]


def _packed(sentences: Sequence[str], width: int) -> list[str]:
    """As many sentences in a line as fit."""
    lines: list[str] = []
    for sentence in sentences:
        if lines and cell_len(joined := f"{lines[-1]}; {sentence}") <= width:
            lines[-1] = joined
        else:
            lines.append(sentence)
    return lines


def _folded(text: str, width: int) -> list[str]:
    """In two lines if one is too short, the second one a little further in."""
    if cell_len(text) <= width:
        return [text]
    first, *rest = text.split(" ")
    while rest and cell_len(f"{first} {rest[0]}") <= width:
        first += f" {rest.pop(0)}"
    return [first, f"{2 * INDENT}{' '.join(rest)}"] if rest else [first]


def _alarm_text(active: ActiveAlarm, wall: float) -> str:
    alarm = active.alarm
    mark = "!!" if alarm.severity == "critical" else "!"
    age = f" for {duration(wall - alarm.since)}" if alarm.since is not None and wall >= alarm.since else ""
    return f"{mark} {active.name}{age}" + (f": {alarm.message}" if alarm.message else "")


def _footer(where: str, order: str, width: int) -> Text:
    keys = f"q quit   s sort: {order}" + (f"   ↑↓ {where}" if where else "")
    return Text(cropped(keys, width), "dim")
