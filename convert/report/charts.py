"""The page's two charts as coordinates and texts, which the template draws. Lengths are in pixels of the chart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .numbers import megabytes, significant
from .quality import Size, TensorQuality

WIDTH = 1040.0
HEAT_LEVELS = 7
# Width of a character in em; of the widest common interface fonts.
_CHARACTER = 0.6
_LABEL_SIZE, _LABEL_HEIGHT, _MARK_RADIUS = 13, 16, 6
_CELL_HEIGHT, _WIDEST_CELL, _ROW_NAMES_WIDTH = 26, 62, 84

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
    """texts: x, y, text and SVG's text-anchor; of rows, columns and single cells."""

    height: float
    cells: list[Cell]
    texts: list[tuple[float, float, str, str]]


def size_chart(sizes: Sequence[Size]) -> Scatter | None:
    """File size against divergence on a logarithmic axis, which has no place for 0; None for fewer than two points."""
    shown = [size for size in sizes if size.divergence > 0]
    if len(shown) < 2:
        return None
    names = ["this bundle" if size.is_own else size.name.removeprefix("--type ") for size in shown]
    xs, ys = [size.bytes / 1e6 for size in shown], [size.divergence for size in shown]
    height = 400.0
    area = left, top, right, bottom = (58.0, 30.0, WIDTH - 12, height - 46)
    margin = (max(xs) - min(xs)) * 0.08 or max(xs) * 0.1
    x_low, x_high = max(0.0, min(xs) - margin), max(xs) + margin
    y_low, y_high = min(ys) / 1.5, max(ys) * 1.5

    def x_at(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (right - left)

    def y_at(y: float) -> float:
        return bottom - math.log(y / y_low) / math.log(y_high / y_low) * (bottom - top)

    places = [(x_at(x), y_at(y)) for x, y in zip(xs, ys, strict=True)]
    labels = _place_labels(names, places, area)
    return Scatter(
        height,
        area,
        [(x_at(tick), f"{tick:g}") for tick in _even_ticks(x_low, x_high, 11)],
        [(y_at(tick), f"{tick:g}") for tick in _log_ticks(y_low, y_high, 9)],
        [
            Mark(x, y, name, size.is_own, label)
            for (x, y), name, size, label in zip(places, names, shown, labels, strict=True)
        ],
    )


def heat_edges(tensors: Sequence[TensorQuality]) -> list[float]:
    """Round borders between the colours, rising: at most HEAT_LEVELS - 1."""
    values = [tensor.divergence for tensor in tensors if tensor.divergence]
    return _one_two_five(min(values), max(values))[-(HEAT_LEVELS - 1) :] if values else []


def tensor_chart(tensors: Sequence[TensorQuality]) -> Grid | None:
    """One cell for each matrix: a row for each kind, a column for each layer; None if nothing was measured."""
    if not any(tensor.divergence is not None for tensor in tensors):
        return None
    edges = heat_edges(tensors)
    kinds = list(dict.fromkeys(tensor.kind for tensor in tensors))
    layers = sorted({tensor.layer for tensor in tensors if tensor.layer is not None})
    cell_width = min((WIDTH - _ROW_NAMES_WIDTH) / max(1, len(layers)), _WIDEST_CELL)
    texts = [
        (_ROW_NAMES_WIDTH + (place + 0.5) * cell_width, 14.0, str(layer), "middle")
        for place, layer in enumerate(layers)
    ]
    cells = []
    for row, kind in enumerate(kinds):
        top = 20.0 + row * _CELL_HEIGHT
        texts.append((_ROW_NAMES_WIDTH - 8, top + 17, kind, "end"))
        for tensor in (tensor for tensor in tensors if tensor.kind == kind):
            place = 0 if tensor.layer is None else layers.index(tensor.layer)
            cells.append(_cell(_ROW_NAMES_WIDTH + place * cell_width, top, cell_width, tensor, edges))
            if tensor.layer is None:
                texts.append((_ROW_NAMES_WIDTH + cell_width + 8, top + 17, _size_and_divergence(tensor), "start"))
    return Grid(20.0 + _CELL_HEIGHT * len(kinds), cells, texts)


def _cell(x: float, y: float, width: float, tensor: TensorQuality, edges: Sequence[float]) -> Cell:
    value = tensor.divergence
    level = None if value is None else sum(edge <= value for edge in edges)
    note = f"{tensor.name}: {tensor.type}, {_size_and_divergence(tensor)}"
    return Cell(x, y, width, tensor.type, note, level, min(10.5, (width - 7) / (_CHARACTER * max(1, len(tensor.type)))))


def _size_and_divergence(tensor: TensorQuality) -> str:
    divergence = "not measured" if tensor.divergence is None else f"{significant(tensor.divergence)} nats"
    return f"{megabytes(tensor.bytes)} MB, {divergence}{' (scaled)' if tensor.is_scaled else ''}"


def _place_labels(
    names: Sequence[str], marks: Sequence[tuple[float, float]], area: _Box
) -> list[tuple[float, float] | None]:
    """Baseline starts of the names: each in the first place around its mark that is free and inside of the area."""
    r = _MARK_RADIUS
    taken = [(x - r, y - r, x + r, y + r) for x, y in marks]
    found: list[tuple[float, float] | None] = []
    for name, (x, y) in zip(names, marks, strict=True):
        width, height, gap = len(name) * _LABEL_SIZE * _CHARACTER, _LABEL_HEIGHT, r + 2
        places = ((gap, -height / 2), (-gap - width, -height / 2), (-width / 2, -gap - height), (-width / 2, gap))
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in places]
        free = [box for box in boxes if _is_inside(box, area) and not any(_overlap(box, other) for other in taken)]
        taken += free[:1]
        found.append((free[0][0], free[0][3] - 4) if free else None)
    return found


def _is_inside(box: _Box, area: _Box) -> bool:
    return area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _even_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` multiples of a round step from low to high."""
    step = next(iter(_one_two_five((high - low) / most, high - low)))
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between low and high (both above 0) for a logarithmic axis."""
    fine = _one_two_five(low, high)
    return fine if len(fine) <= most else fine[:: 3 * math.ceil(len(fine) / most / 3)]


def _one_two_five(low: float, high: float) -> list[float]:
    """The numbers 1, 2 and 5 times a power of ten from low to high."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [float(f"{factor}e{power}") for power in exponents for factor in (1, 2, 5)]
    return [number for number in numbers if low <= number <= high]
