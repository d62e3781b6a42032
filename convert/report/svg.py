"""PURE. Drawings that need no script: a scatter plot, bars and a grid of coloured cells.

Lengths are in pixels of the drawing's own width. Colours are classes of the page's style, so that they follow its
scheme.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .figures import is_plain, ten_to
from .labels import EM_PER_CHARACTER, POINT_RADIUS, Box, leader_end, place_labels, text_width
from .markup import NOTHING, Markup, element, escaped, joined
from .ticks import log_ticks, round_ticks

_CELL_HEIGHT = 26
_ROW_NAMES_WIDTH = 84
_LEAST_CELL_WIDTH = 39


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a reader of the screen hears instead of the drawing. name: unique on the page."""

    name: str
    title: str
    description: str


@dataclass(frozen=True, slots=True)
class Point:
    """y is above 0, for its axis is logarithmic."""

    name: str
    x: float
    y: float
    is_own: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """value is 0 or more; `text` stands at the bar's end."""

    name: str
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """level: its colour, from 0 up, or None for none.

    note: what the pointer shows, and what stands beside a cell that is apart.
    """

    level: int | None
    text: str
    note: str


def tick_text(value: float) -> str:
    """A round number without superfluous zeros; with a power of ten where it has many."""
    if value == 0 or is_plain(value):
        return f"{value:,.12f}".rstrip("0").rstrip(".")
    mantissa, exponent = f"{value:.6e}".split("e")
    factor = mantissa.rstrip("0").rstrip(".")
    return ten_to(int(exponent)) if factor == "1" else f"{factor}×{ten_to(int(exponent))}"


def scatter(points: Sequence[Point], *, about: About, width: float, x_name: str, y_name: str) -> Markup:
    """Points by an even x and a logarithmic y, at least one; labels never overlap, what has no room gets none."""
    height = 400.0 if width > 600 else 330.0
    area = Box(left=58, top=30, right=width - 12, bottom=height - 46)
    xs, ys = [point.x for point in points], [point.y for point in points]
    x_room = (max(xs) - min(xs)) * 0.08 or max(xs) * 0.1 or 1
    x_low, x_high = max(0.0, min(xs) - x_room), max(xs) + x_room
    y_low, y_high = min(ys) / 1.5, max(ys) * 1.5

    def x_at(x: float) -> float:
        return area.left + (x - x_low) / (x_high - x_low) * (area.right - area.left)

    def y_at(y: float) -> float:
        return area.bottom - math.log(y / y_low) / math.log(y_high / y_low) * (area.bottom - area.top)

    marks = [(x_at(point.x), y_at(point.y)) for point in points]
    labels = place_labels([point.name for point in points], marks, area, first=[point.is_own for point in points])
    content = [
        *_axis_y([(y_at(tick), tick_text(tick)) for tick in log_ticks(y_low, y_high, 9)], area),
        *_axis_x([(x_at(tick), tick_text(tick)) for tick in round_ticks(x_low, x_high, int(width // 90))], area),
        _text(area.left - 46, 14, y_name, class_="axis-name"),
        _text(area.right, height - 6, x_name, class_="axis-name", text_anchor="end"),
        *(_leader(x, y, box) for (x, y), box in zip(marks, labels, strict=True) if box is not None),
        *(_mark(x, y, point) for (x, y), point in zip(marks, points, strict=True)),
        *(
            _text(box.left, box.bottom - 4, point.name, class_="label own" if point.is_own else "label")
            for point, box in zip(points, labels, strict=True)
            if box is not None
        ),
    ]
    return _drawing(about, width, height, content)


def _leader(x: float, y: float, box: Box) -> Markup:
    end = leader_end(x, y, box)
    return NOTHING if end is None else element("line", class_="leader", x1=x, y1=y, x2=end[0], y2=end[1])


def _mark(x: float, y: float, point: Point) -> Markup:
    tip = element("title", escaped(point.name))
    if not point.is_own:
        return element("g", tip, element("circle", class_="mark", cx=x, cy=y, r=POINT_RADIUS - 1))
    # Another shape, for those who do not see the colour.
    r = POINT_RADIUS + 2
    path = f"M{x:.1f} {y - r:.1f}L{x + r:.1f} {y:.1f}L{x:.1f} {y + r:.1f}L{x - r:.1f} {y:.1f}Z"
    return element("g", tip, element("path", class_="mark own", d=path))


def _axis_x(ticks: Sequence[tuple[float, str]], area: Box) -> list[Markup]:
    lines = [element("line", class_="rule", x1=x, y1=area.top, x2=x, y2=area.bottom) for x, _ in ticks]
    return lines + [_text(x, area.bottom + 18, text, class_="tick", text_anchor="middle") for x, text in ticks]


def _axis_y(ticks: Sequence[tuple[float, str]], area: Box) -> list[Markup]:
    lines = [element("line", class_="rule", x1=area.left, y1=y, x2=area.right, y2=y) for y, _ in ticks]
    return lines + [_text(area.left - 8, y + 4, text, class_="tick", text_anchor="end") for y, text in ticks]


def bars(rows: Sequence[Bar], *, about: About, width: float, x_name: str) -> Markup:
    """One horizontal bar per row, from 0; names stand beside the bars, or above them where it is narrow."""
    is_narrow = width <= 600
    left = 5.0 if is_narrow else max(text_width(row.name) for row in rows) + 12
    row_height, bar_height = (46, 20) if is_narrow else (34, 20)
    area = Box(left=left, top=4, right=width - max(text_width(row.text) for row in rows) - 12, bottom=0)
    bottom = area.top + row_height * len(rows) + 4
    area = Box(area.left, area.top, area.right, bottom)
    most = max(row.value for row in rows) or 1.0

    def x_at(value: float) -> float:
        return area.left + value / most * (area.right - area.left)

    ticks = round_ticks(0, most, max(2, int((area.right - area.left) // 80)))
    content = _axis_x([(x_at(tick), tick_text(tick)) for tick in ticks], area)
    for index, row in enumerate(rows):
        y = area.top + row_height * index + (20 if is_narrow else 7)
        x = x_at(row.value)
        if is_narrow:
            content.append(_text(left, y - 5, row.name, class_="label halo"))
        else:
            content.append(_text(left - 10, y + 15, row.name, class_="label", text_anchor="end"))
        content.append(element("rect", class_="bar", x=area.left, y=y, width=max(x - area.left, 1), height=bar_height))
        content.append(_text(x + 7, y + 15, row.text, class_="label halo"))
    content.append(_text(area.right, bottom + 38, x_name, class_="axis-name", text_anchor="end"))
    return _drawing(about, width, bottom + 46, content)


def grid(
    cells: Mapping[tuple[str, int], Cell],
    apart: Mapping[str, Cell],
    *,
    rows: Sequence[str],
    column_name: str,
    about: About,
    width: float,
) -> Markup:
    """Cells by row and numbered column, in as many equal stripes as the width asks for; cells `apart` below them."""
    columns = sorted({column for _, column in cells})
    stripes = _stripes(columns, int((width - _ROW_NAMES_WIDTH) // _LEAST_CELL_WIDTH))
    cell_width = (width - _ROW_NAMES_WIDTH) / len(stripes[0]) if stripes else _LEAST_CELL_WIDTH
    cell_width = min(cell_width, 1.6 * _LEAST_CELL_WIDTH)
    content: list[Markup] = []
    top = 0.0
    for stripe in stripes:
        content.append(_text(0, top + 14, column_name, class_="axis-name"))
        for place, column in enumerate(stripe):
            x = _ROW_NAMES_WIDTH + (place + 0.5) * cell_width
            content.append(_text(x, top + 14, str(column), class_="tick", text_anchor="middle"))
        top += 20
        for row in rows:
            content.append(_text(_ROW_NAMES_WIDTH - 8, top + 17, row, class_="tick", text_anchor="end"))
            for place, column in enumerate(stripe):
                if cell := cells.get((row, column)):
                    content.append(_cell(_ROW_NAMES_WIDTH + place * cell_width, top, cell_width, cell))
            top += _CELL_HEIGHT
        top += 12
    for name, cell in apart.items():
        content.append(_text(_ROW_NAMES_WIDTH - 8, top + 17, name, class_="tick", text_anchor="end"))
        content.append(_cell(_ROW_NAMES_WIDTH, top, cell_width, cell))
        x = _ROW_NAMES_WIDTH + cell_width + 8
        note = _text(x, top + 17, cell.note)
        content.append(element("g", note, class_="note", font_size=_size_within(width - x, cell.note, most=12)))
        top += _CELL_HEIGHT
    return _drawing(about, width, top + 2, content)


def _stripes(columns: Sequence[int], most: int) -> list[Sequence[int]]:
    if not columns:
        return []
    each = math.ceil(len(columns) / math.ceil(len(columns) / most))
    return [columns[start : start + each] for start in range(0, len(columns), each)]


def _cell(x: float, y: float, width: float, cell: Cell) -> Markup:
    size = _size_within(width - 7, cell.text, most=10.5)
    return element(
        "g",
        element("title", escaped(cell.note)),
        element("rect", x=x + 0.5, y=y + 0.5, width=width - 1, height=_CELL_HEIGHT - 1, rx=2),
        _text(x + width / 2, y + 17, cell.text, text_anchor="middle"),
        font_size=size,
        class_="heat heat-none" if cell.level is None else f"heat heat-{cell.level}",
    )


def _size_within(width: float, text: str, *, most: float) -> float:
    return min(most, width / (EM_PER_CHARACTER * max(1, len(text))))


def _text(x: float, y: float, text: str, **attributes: str | float) -> Markup:
    return element("text", escaped(text), x=x, y=y, **attributes)


def _drawing(about: About, width: float, height: float, content: Sequence[Markup]) -> Markup:
    title, description = f"{about.name}-title", f"{about.name}-description"
    return element(
        "svg",
        element("title", escaped(about.title), id=title),
        element("desc", escaped(about.description), id=description),
        joined(content),
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_labelledby=title,
        aria_describedby=description,
    )


def for_every_screen(draw: Callable[[str, float], Markup]) -> Markup:
    """`draw(suffix, width)` twice, for wide and for narrow screens; the page's style shows one of the two.

    A drawing that is only scaled down to a phone cannot be read there.
    """
    wide, narrow = draw("wide", 1040), draw("narrow", 340)
    return joined([element("div", wide, class_="wide"), element("div", narrow, class_="narrow")])
