"""Rows as a table of rich, with a line for each board, and what is wrong with it beside its figures."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group, JustifyMethod, OverflowMethod, RenderableType
from rich.table import Table
from rich.text import Text

from edge_agent.core.terminal import UNKNOWN
from edge_agent.core.wording import printable
from edge_agent.tools.watch.advice import with_advice
from edge_agent.tools.watch.site import (
    URGENT,
    BoardLevel,
    Document,
    Row,
    duration,
    is_critical,
    number_at,
    text_at,
    time_at,
    with_details,
)

STYLES = {
    BoardLevel.MISSING: "bold white on red",
    BoardLevel.OFFLINE: "bold white on red",
    BoardLevel.STALE: "bold black on yellow",
    BoardLevel.CRITICAL: "bold white on red",
    BoardLevel.DEGRADED: "bold yellow",
    BoardLevel.UNKNOWN: "magenta",
    BoardLevel.STARTING: "cyan",
    BoardLevel.DRAINING: "cyan",
    BoardLevel.STOPPED: "dim",
    BoardLevel.OK: "green",
}

# More MISSING boards than this share one row.
_MAX_MISSING = 3


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    cell: Callable[[Row], str | Text | None]
    needs_width: int = 0  # How many columns a terminal needs for this one to be shown.
    is_number: bool = True
    min_width: int = 0  # So that what stands beside it does not move.


def site_view(
    rows: Sequence[Row],
    *,
    site: str,
    broker: str,
    trouble: str | None,
    width: int,
    wall: float,
    clock: str,
    is_compact: bool = False,
    is_expanded: bool = True,
    max_rows: int | None = None,
) -> RenderableType:
    """The whole view, with any trouble above the table. `wall` is in seconds since 1970, `clock` the time of day.

    If `is_compact`, each board takes one line, and what does not fit into it is cut off. If `is_expanded`, the view
    takes the whole width. Rows beyond `max_rows` are only counted, because those that are not seen take time, too.
    """
    left = Text.assemble((printable(site), "bold"), f"  {len(rows)} board{'' if len(rows) == 1 else 's'}")
    for level, count in sorted(Counter(row.level for row in rows).items()):
        left.append("  ").append(f"{count} {level_word(level)}", STYLES[level])
    head = Table.grid(expand=is_expanded, padding=(0, 1))
    head.add_column(ratio=1, no_wrap=True)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(left, Text(f"{printable(broker)}  {clock}" if width >= 100 else clock, "dim"))
    table = Table(box=None, pad_edge=False, expand=is_expanded, header_style="bold dim")
    columns = [column for column in TABLE_COLUMNS if width >= column.needs_width]
    for column in columns:
        justify: JustifyMethod = "right" if column.is_number else "left"
        table.add_column(column.title, justify=justify, no_wrap=True, min_width=column.min_width)
    overflow: OverflowMethod = "ellipsis" if is_compact else "fold"
    table.add_column("WHAT IS WRONG", ratio=1, min_width=12, overflow=overflow, no_wrap=is_compact)
    missing = [row for row in rows if row.level is BoardLevel.MISSING]
    if len(missing) > _MAX_MISSING:
        # While a fleet is being installed, most boards are missing, and must not push down those that died.
        rows = [row for row in rows if row.level is not BoardLevel.MISSING]
        devices = [row.device for row in missing]
        names = f"{devices[0]} … {devices[-1]}" if is_compact else ", ".join(devices)
        (why,) = with_advice(missing[0].why, "missing")
        of_all = (_cell(f"{len(missing)} boards"), _cell(_level(missing[0])), *(_cell(None) for _ in columns[2:]))
        table.add_row(*of_all, Text(printable(f"{names}: {why}")))
    for row in rows[:max_rows]:
        table.add_row(*(_cell(column.cell(row)) for column in columns), _wrong(row, wall, "; " if is_compact else "\n"))
    return Group(head, *([Text(printable(trouble), "bold white on red")] if trouble else []), table)


def _level(row: Row) -> Text:
    return Text(level_word(row.level), STYLES[row.level])


def level_word(level: BoardLevel) -> str:
    """The level as it is shown; capitals are seen without colours, too."""
    return level.name if level in URGENT else level.name.lower()


def _cell(value: str | Text | None) -> Text:
    if value is None:
        return Text(UNKNOWN, "dim")
    return Text(printable(value)) if isinstance(value, str) else value


def _wrong(row: Row, wall: float, separator: str) -> Text:
    is_stale = row.level is BoardLevel.STALE
    lines = [
        Text(printable(_alarm_words(name, alarm, wall)), "bold red" if is_critical(alarm) else "yellow")
        for name, alarm in row.alarms
        if not is_stale
    ]
    # An alarm's message says more than the reason of its name.
    raised = {name for name, _ in row.alarms}
    phrases = with_advice([with_details(phrase, row) for phrase in row.why], row.level.name.lower())
    why = "; ".join(phrase for phrase in phrases if phrase.split(":", maxsplit=1)[0] not in raised)
    if why and row.level_age_s is not None:
        # Beside alarms with ages of their own, it says what this is the age of.
        what = f"{level_word(row.level)} " if lines else ""
        why = f"{what}for {duration(row.level_age_s)}: {why}"
    if why:
        lines.append(Text(printable(why)))
    if is_stale and raised:
        # They may have ended since.
        lines.append(Text(printable(f"its last alarms: {', '.join(sorted(raised))}"), "dim"))
    return Text(separator).join(lines)


def _alarm_words(name: str, alarm: Document, wall: float) -> str:
    since, message = time_at(alarm, "since"), text_at(alarm, "message")
    age = f" for {duration(wall - since)}" if since is not None and wall >= since else ""
    return f"{'!!' if is_critical(alarm) else '!'} {name}{age}" + (f": {message}" if message else "")


def _temperature(row: Row) -> Text | None:
    soc_c, headroom_c = number_at(row.health, "thermal.soc_c"), number_at(row.health, "thermal.headroom_c")
    if soc_c is None:
        return None
    style = "" if headroom_c is None else "red" if headroom_c < 3 else "yellow" if headroom_c < 10 else "green"
    return Text(f"{soc_c:.0f}°", style)


def _queue(row: Row) -> Text | None:
    depth, capacity = number_at(row.health, "queue.depth"), number_at(row.health, "queue.capacity")
    if depth is None:
        return None
    is_long = capacity is not None and depth >= capacity / 2
    return Text(f"{depth:.0f}/{UNKNOWN if capacity is None else f'{capacity:.0f}'}", "yellow" if is_long else "")


def _watts(row: Row) -> str | None:
    """The watts. If they are of less than the whole board, they name what was measured."""
    watts, scope = number_at(row.health, "power.watts"), text_at(row.health, "power.scope")
    return None if watts is None else f"{watts:.1f}" + (f" {scope}" if scope not in (None, "board") else "")


def _model(row: Row) -> str | None:
    """The model, in brackets if the board is silent, because it may have another one by now."""
    words = row.model_words
    return words if words is None or row.health else f"({words})"


def _figure(path: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        value = number_at(row.health, path)
        return None if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"

    return cell


TABLE_COLUMNS = (
    Column("BOARD", lambda row: Text(printable(row.device)[:64], "bold"), is_number=False),
    Column("STATE", _level, is_number=False, min_width=8),
    Column("TEMP", _temperature, min_width=4),
    Column("QUEUE", _queue, min_width=5),
    Column("TOK/S", _figure("inference.decode_tok_s"), min_width=5),
    Column("P95 MS", _figure("inference.latency_ms.p95"), needs_width=100, min_width=6),
    Column("WATTS", _watts, needs_width=100, min_width=5),
    Column("MODEL", _model, needs_width=130, is_number=False),
    Column("AGE", lambda row: None if row.health_age_s is None else duration(row.health_age_s), min_width=6),
)
