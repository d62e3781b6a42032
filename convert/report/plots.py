"""PURE. The page's three plots, each None where there is nothing to draw."""

from collections.abc import Sequence

from .figures import megabytes, significant
from .labels import label_text
from .markup import NOTHING, Markup, element, escaped, joined
from .quality import Size, Speed, Tensor
from .style import HEAT_LEVELS
from .svg import About, Bar, Cell, Point, bars, for_every_screen, grid, scatter, tick_text
from .tensors import KINDS, sort_tensors
from .ticks import level, log_ticks


def size_plot(sizes: Sequence[Size]) -> Markup | None:
    """Size against divergence, this bundle beside others."""
    points = [
        Point(
            "this bundle" if size.is_own else label_text(size.name.removeprefix("--type ")),
            size.bytes / 1e6,
            size.divergence,
            is_own=size.is_own,
        )
        for size in sizes
        if size.divergence
    ]
    if len(points) < 2:
        return None
    told = "; ".join(f"{point.name}: {point.x:,.1f} MB, {significant(point.y)} nats" for point in points)

    def draw(suffix: str, width: float) -> Markup:
        about = About(name=f"sizes-{suffix}", title="Size of the file against divergence", description=told)
        return scatter(points, about=about, width=width, x_name="size, MB", y_name="mean divergence, nats (log scale)")

    caption = "Down is closer to the unquantized model, left is smaller."
    if exact := [size.name for size in sizes if size.divergence == 0]:
        caption += f" Not drawn, for a divergence of 0 has no place on this scale: {', '.join(exact)}."
    return _figure(for_every_screen(draw), caption)


def tensor_plot(tensors: Sequence[Tensor]) -> Markup | None:
    """Divergence by layer and kind of tensor."""
    model = sort_tensors(tensors)
    drawn = [*model.by_layer.values(), *model.apart.values()]
    measured = [tensor.divergence for tensor in drawn if tensor.divergence is not None]
    if not measured:
        return None
    edges = _edges(measured)

    def cell(tensor: Tensor, note: str) -> Cell:
        return Cell(
            None if tensor.divergence is None else _colour(level(tensor.divergence, edges), len(edges)),
            tensor.type,
            note,
        )

    cells = {
        place: cell(tensor, f"{tensor.name}: {tensor.type}, {_size_and_divergence(tensor)}")
        for place, tensor in model.by_layer.items()
    }
    apart = {name: cell(tensor, _size_and_divergence(tensor)) for name, tensor in model.apart.items()}
    rows = [kind for kind in KINDS if any(kind == found for found, _ in cells)]

    def draw(suffix: str, width: float) -> Markup:
        about = About(
            name=f"tensors-{suffix}",
            title="Divergence by tensor, one column for each layer",
            description="Each cell is one matrix: its colour is its divergence, its text its type. "
            "The tables below hold all figures.",
        )
        return grid(cells, apart, rows=rows, column_name="layer", about=about, width=width)

    caption = "Each cell is a matrix with its type; the darker, or brighter on dark ground, the more comes from it."
    return _figure(joined([_legend(edges), for_every_screen(draw)]), caption)


def speed_plot(speeds: Sequence[Speed]) -> Markup | None:
    """Predicted tokens per second by board."""
    if not speeds:
        return None
    rows = [Bar(label_text(speed.board), speed.tokens_per_s, significant(speed.tokens_per_s)) for speed in speeds]
    told = "; ".join(f"{row.name}: {row.text} tokens/s" for row in rows)

    def draw(suffix: str, width: float) -> Markup:
        about = About(name=f"speeds-{suffix}", title="Predicted tokens per second by board", description=told)
        return bars(rows, about=about, width=width, x_name="tokens/s at most, PREDICTED")

    return _figure(for_every_screen(draw), "Predicted, not measured: bars are dashed for that reason.")


def _figure(drawing: Markup, caption: str) -> Markup:
    return element("figure", drawing, element("figcaption", escaped(caption)))


def _size_and_divergence(tensor: Tensor) -> str:
    divergence = "not measured" if tensor.divergence is None else f"{significant(tensor.divergence)} nats"
    divergence += " (scaled)" if tensor.is_scaled else ""
    return f"{megabytes(tensor.bytes)} MB, {divergence}"


def _edges(values: Sequence[float]) -> tuple[float, ...]:
    """Round borders between the colours, rising; what is below the first is all the same to a reader."""
    positive = [value for value in values if value > 0]
    if not positive or min(positive) == max(positive):
        return ()
    fine = log_ticks(min(positive), max(positive), 100)
    return fine[-(HEAT_LEVELS - 1) :]


def _colour(found: int, last: int) -> int:
    return round(found * (HEAT_LEVELS - 1) / last) if last else HEAT_LEVELS // 2


def _legend(edges: tuple[float, ...]) -> Markup:
    if not edges:
        return NOTHING
    shown = [tick_text(edge) for edge in edges]
    names = [f"below {shown[0]} nats", *(f"from {edge}" for edge in shown)]
    items = []
    for index, name in enumerate(names):
        rect = element("rect", x=0.5, y=0.5, width=13, height=13, rx=2)
        group = element("g", rect, class_=f"heat-{_colour(index, len(edges))}")
        swatch = element("svg", group, viewBox="0 0 14 14", aria_hidden="true")
        items.append(element("li", swatch, escaped(name)))
    return element("ul", *items, class_="legend")
