"""The page's two charts as coordinates and texts, which the template draws. Lengths are in pixels of the chart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .numbers import megabytes, round_number, significant
from .quality import Size, TensorQuality
from .tensors import KINDS, SINGLE, by_layer, single

# A chart that is only scaled down cannot be read on a phone: each is drawn twice, and the style shows one of them.
WIDTHS = {"wide": 1040.0, "narrow": 340.0}
HEAT_LEVELS = 7
# Width of a character in em; of the widest common interface fonts.
_CHARACTER = 0.6
_LABEL_SIZE, _LABEL_HEIGHT, _LONGEST_LABEL = 13, 16, 24
_MARK_RADIUS = 6
_CELL_HEIGHT, _SMALLEST_CELL, _ROW_NAMES_WIDTH = 26, 39, 84

# left, top, right, bottom; y grows downwards.
_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the scatter chart. label: where its name begins; None = there is no room for it."""

    x: float
    y: float
    name: str
    is_own: bool
    label: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Scatter:
    """area: left, top, right, bottom of the plot; ticks: position and text."""

    width: float
    height: float
    area: _Box
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[Mark]


@dataclass(frozen=True, slots=True)
class Cell:
    """level: its colour, from 0 to HEAT_LEVELS - 1; None = not measured. note: what the pointer shows."""

    x: float
    y: float
    width: float
    text: str
    note: str
    level: int | None
    font_size: float


@dataclass(frozen=True, slots=True)
class Grid:
    """names: (x, y, text) of rows; columns: the same of layers; notes: beside single cells, with their font size."""

    width: float
    height: float
    names: list[tuple[float, float, str]]
    columns: list[tuple[float, float, str]]
    stripes: list[float]
    cells: list[Cell]
    notes: list[tuple[float, float, str, float]]


def size_chart(sizes: Sequence[Size], width: float) -> Scatter | None:
    """File size against divergence on a logarithmic axis, which has no place for 0; None for fewer than two points."""
    shown = [size for size in sizes if size.divergence > 0]
    if len(shown) < 2:
        return None
    names = ["this bundle" if size.is_own else _short(size.name.removeprefix("--type ")) for size in shown]
    xs, ys = [size.bytes / 1e6 for size in shown], [size.divergence for size in shown]
    height = 400.0 if width > 600 else 330.0
    area = left, top, right, bottom = (58.0, 30.0, width - 12, height - 46)
    margin = (max(xs) - min(xs)) * 0.08 or max(xs) * 0.1
    x_low, x_high = max(0.0, min(xs) - margin), max(xs) + margin
    y_low, y_high = min(ys) / 1.5, max(ys) * 1.5

    def x_at(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def y_at(y: float) -> float:
        return bottom - math.log(y / y_low) / math.log(y_high / y_low) * (bottom - top)

    places = [(x_at(x), y_at(y)) for x, y in zip(xs, ys, strict=True)]
    labels = _place_labels(names, places, area, first=[size.is_own for size in shown])
    return Scatter(
        width,
        height,
        area,
        [(x_at(tick), round_number(tick)) for tick in even_ticks(x_low, x_high, int(width // 90))],
        [(y_at(tick), round_number(tick)) for tick in _log_ticks(y_low, y_high, 9)],
        [
            Mark(x, y, name, size.is_own, label)
            for (x, y), name, size, label in zip(places, names, shown, labels, strict=True)
        ],
    )


def heat_edges(tensors: Sequence[TensorQuality]) -> list[float]:
    """Round borders between the colours, rising: at most HEAT_LEVELS - 1."""
    values = [tensor.divergence for tensor in tensors if tensor.divergence]
    return _one_two_five(min(values), max(values))[-(HEAT_LEVELS - 1) :] if values else []


def heat_level(edges_below: int, edges: int) -> int:
    """The colour of a value that is above this number of the edges."""
    return round(edges_below * (HEAT_LEVELS - 1) / edges) if edges else HEAT_LEVELS // 2


def tensor_chart(tensors: Sequence[TensorQuality], width: float) -> Grid | None:
    """One cell for each matrix, a column for each layer, in as many stripes as the width needs; None if unmeasured."""
    matrices, others = by_layer(tensors), single(tensors)
    if not any(tensor.divergence is not None for tensor in (*matrices.values(), *others.values())):
        return None
    edges = heat_edges(tensors)
    layers = sorted({layer for _, layer in matrices})
    rows = [kind for kind in KINDS if any(kind == found for found, _ in matrices)]
    stripes = _stripes(layers, int((width - _ROW_NAMES_WIDTH) // _SMALLEST_CELL))
    cell_width = min((width - _ROW_NAMES_WIDTH) / max(map(len, stripes), default=1), 1.6 * _SMALLEST_CELL)
    grid = Grid(width, 0.0, [], [], [], [], [])
    top = 0.0
    for stripe in stripes:
        grid.stripes.append(top + 14)
        grid.columns.extend(
            (_ROW_NAMES_WIDTH + (place + 0.5) * cell_width, top + 14, str(layer)) for place, layer in enumerate(stripe)
        )
        top += 20
        for row in rows:
            grid.names.append((_ROW_NAMES_WIDTH - 8, top + 17, row))
            for place, layer in enumerate(stripe):
                if tensor := matrices.get((row, layer)):
                    note = f"{tensor.name}: {tensor.type}, {_size_and_divergence(tensor)}"
                    x = _ROW_NAMES_WIDTH + place * cell_width
                    grid.cells.append(_cell(x, top, cell_width, tensor, note=note, edges=edges))
            top += _CELL_HEIGHT
        top += 12
    for name in SINGLE:
        if tensor := others.get(name):
            note = _size_and_divergence(tensor)
            x = _ROW_NAMES_WIDTH + cell_width + 8
            grid.names.append((_ROW_NAMES_WIDTH - 8, top + 17, name))
            grid.cells.append(_cell(_ROW_NAMES_WIDTH, top, cell_width, tensor, note=note, edges=edges))
            grid.notes.append((x, top + 17, note, _font_size(width - x, note, 12)))
            top += _CELL_HEIGHT
    return Grid(width, top + 2, grid.names, grid.columns, grid.stripes, grid.cells, grid.notes)


def _cell(x: float, y: float, width: float, tensor: TensorQuality, *, note: str, edges: Sequence[float]) -> Cell:
    value = tensor.divergence
    level = None if value is None else heat_level(sum(edge <= value for edge in edges), len(edges))
    return Cell(x, y, width, tensor.type, note, level, _font_size(width - 7, tensor.type, 10.5))


def _size_and_divergence(tensor: TensorQuality) -> str:
    divergence = "not measured" if tensor.divergence is None else f"{significant(tensor.divergence)} nats"
    return f"{megabytes(tensor.bytes)} MB, {divergence}{' (scaled)' if tensor.is_scaled else ''}"


def _stripes(layers: Sequence[int], most: int) -> list[Sequence[int]]:
    if not layers:
        return []
    each = math.ceil(len(layers) / math.ceil(len(layers) / most))
    return [layers[start : start + each] for start in range(0, len(layers), each)]


def _font_size(width: float, text: str, largest: float) -> float:
    return min(largest, width / (_CHARACTER * max(1, len(text))))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"


def _place_labels(
    names: Sequence[str], marks: Sequence[tuple[float, float]], area: _Box, *, first: Sequence[bool]
) -> list[tuple[float, float] | None]:
    """Baseline starts of the names: each in the first place around its mark that is free and inside of the area."""
    r = _MARK_RADIUS
    taken = [(x - r, y - r, x + r, y + r) for x, y in marks]
    found: list[tuple[float, float] | None] = [None] * len(names)
    for at in sorted(range(len(names)), key=lambda at: not first[at]):
        x, y = marks[at]
        width, height, gap = len(names[at]) * _LABEL_SIZE * _CHARACTER, _LABEL_HEIGHT, r + 2
        for dx, dy in (
            (gap, -height / 2),
            (-gap - width, -height / 2),
            (-width / 2, -gap - height),
            (-width / 2, gap),
            (2, -gap - height),
            (-2 - width, -gap - height),
            (2, gap),
            (-2 - width, gap),
        ):
            box = (x + dx, y + dy, x + dx + width, y + dy + height)
            if _is_inside(box, area) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found[at] = (box[0], box[3] - 4)
                break
    return found


def _is_inside(box: _Box, area: _Box) -> bool:
    return area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def even_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` (2 or more) multiples of a round step from low to high."""
    if not high > low:
        return [low]
    exponent = math.floor(math.log10((high - low) / most))
    for step in (_scaled(factor, power) for power in (exponent, exponent + 1) for factor in (1, 2, 5)):
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first < most:
            return [float(f"{step * count:.12g}") for count in range(first, last + 1)]
    return [low]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between low and high (both above 0) for a logarithmic axis."""
    fine = _one_two_five(low, high)
    coarse = [tick for tick in fine if math.log10(tick).is_integer()]
    found = fine if len(fine) <= most else coarse[:: math.ceil(len(coarse) / most)]
    return found if len(found) > 1 else even_ticks(low, high, most)


def _one_two_five(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in exponents for factor in (1, 2, 5) if low <= (tick := _scaled(factor, power)) <= high]


def _scaled(factor: int, exponent: int) -> float:
    """factor · 10^exponent as the nearest float, so that it prints as 0.3 and not as 0.30000000000000004."""
    return float(f"{factor}e{exponent}")
