"""quality.html of a bundle: one page for people, without scripts, which loads nothing from anywhere."""

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from edge_agent.core.page.figures import HEAT, HEAT_INK, HEAT_LEVELS, INK, OTHER, OWN, QUIET, note, plot, styled, svg

from ..agent import page_environment
from ..errors import escaped
from . import numbers
from .numbers import megabytes, significant
from .quality import Quality, Size, TensorQuality

_WIDTH = 1040.0
_CELL_HEIGHT, _WIDEST_CELLS = 26.0, 15
# Where a name may be placed around its mark: the offset in points, and the alignment of the text.
_PLACES = ((10, 0, "left", "center"), (-10, 0, "right", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top"))
_SHOWN = ("significant", "percent", "ratio", "megabytes", "perplexity_verdict", "right_answers", "points_gained")


def render_page(quality: Quality) -> str:
    measured = [tensor for tensor in quality.tensors if tensor.divergence is not None]
    context = {
        "quality": quality,
        "comparison": quality.comparison,
        "bundle": quality.bundle,
        "less_probable": numbers.significant(100 * (1 - math.exp(-quality.comparison.divergence.mean)), 2),
        "own": next(size for size in quality.sizes if size.is_own),
        "sizes": sorted(quality.sizes, key=lambda size: size.bytes),
        "size_chart": size_chart(quality.sizes),
        "measured": len(measured),
        "scaled": sum(tensor.is_scaled for tensor in measured),
        "total": _total(measured),
        "tensor_chart": tensor_chart(quality.tensors),
        "kinds": _kinds(quality.tensors),
        **{name: getattr(numbers, name) for name in _SHOWN},
    }
    return page_environment(Path(__file__).parent).get_template("quality.html.jinja").render(context)


def _total(tensors: Sequence[TensorQuality]) -> float:
    return sum(tensor.divergence or 0 for tensor in tensors)


def _kinds(all_tensors: Sequence[TensorQuality]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(tensor.kind for tensor in all_tensors):
        found = [tensor for tensor in all_tensors if tensor.kind == kind]
        is_measured = any(tensor.divergence is not None for tensor in found)
        total = _total(all_tensors)
        rows.append(
            (
                kind,
                f"{len(found):,}",
                ", ".join(sorted({tensor.type for tensor in found})),
                numbers.megabytes(sum(tensor.bytes for tensor in found)),
                numbers.significant(_total(found) if is_measured else None),
                numbers.percent(_total(found) / total if is_measured and total else None),
            )
        )
    return rows


@styled
def size_chart(sizes: Sequence[Size]) -> Markup | None:
    """File size against divergence on a logarithmic axis, which has no place for 0; None for fewer than two points."""
    drawn = [size for size in sizes if size.divergence > 0]
    if len(drawn) < 2:
        return None
    figure, axes = plot(_WIDTH, 400, "size, MB", "mean divergence, nats (log scale)")
    axes.set_yscale("log")
    axes.grid(visible=True)
    axes.margins(0.08)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    for size in drawn:
        # Another shape, for readers who do not see the colour.
        marker, colour = ("D", OWN) if size.is_own else ("o", OTHER)
        axes.plot(size.bytes / 1e6, size.divergence, marker, color=colour, markersize=8, zorder=3)
    figure.draw_without_rendering()
    _name_marks(axes, drawn)
    return svg(figure, "Size of the file against divergence; the table below holds all figures")


def _name_marks(axes: Axes, sizes: Sequence[Size]) -> None:
    """Puts each name into the first free place around its mark inside the plot, if there is one."""
    places = [(size.bytes / 1e6, size.divergence) for size in sizes]
    taken = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in axes.transData.transform(places)]
    for size, place in zip(sizes, places, strict=True):
        name = "this bundle" if size.is_own else escaped(size.name.removeprefix("--type "))
        for dx, dy, side, height in _PLACES:
            colour, weight = (OWN, "bold") if size.is_own else (INK, "normal")
            label = axes.annotate(
                name, place, (dx, dy), textcoords="offset points", ha=side, va=height, color=colour, weight=weight
            )
            box = label.get_window_extent()
            if axes.bbox.count_contains([box.min, box.max]) == 2 and not box.count_overlaps(taken):
                taken.append(box)
                break
            label.remove()


def heat_edges(tensors: Sequence[TensorQuality]) -> list[float]:
    """Round values at which the colour changes, ascending: at most HEAT_LEVELS - 1."""
    values = [tensor.divergence for tensor in tensors if tensor.divergence]
    if not values:
        return []
    low, high = min(values), max(values)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    edges = [float(f"{factor}e{power}") for power in exponents for factor in (1, 2, 5)]
    return [edge for edge in edges if low <= edge <= high][-(HEAT_LEVELS - 1) :]


@styled
def tensor_chart(tensors: Sequence[TensorQuality]) -> Markup | None:
    """One cell for each matrix: a row for each kind, a column for each layer; None if nothing was measured."""
    if not any(tensor.divergence is not None for tensor in tensors):
        return None
    edges, kinds = heat_edges(tensors), list(dict.fromkeys(tensor.kind for tensor in tensors))
    layers = sorted({tensor.layer for tensor in tensors if tensor.layer is not None})
    columns = max(len(layers), _WIDEST_CELLS)
    figure, axes = plot(_WIDTH, 75 + _CELL_HEIGHT * len(kinds), "layer")
    for tensor in tensors:
        row, column = kinds.index(tensor.kind), 0 if tensor.layer is None else layers.index(tensor.layer)
        _draw_cell(axes, row, column, tensor, edges, 900 / columns)
        if tensor.layer is None:
            axes.text(column + 0.6, row, _size_and_divergence(tensor), va="center", color=QUIET)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(len(kinds) - 0.5, -0.5))
    axes.set_xticks(range(len(layers)), list(map(str, layers)))
    axes.set_yticks(range(len(kinds)), list(map(escaped, kinds)))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if edges:
        names = [f"below {edges[0]:g} nats", *(f"from {edge:g}" for edge in edges)]
        shown = [Patch(facecolor=colour, label=name) for colour, name in zip(HEAT, names, strict=False)]
        figure.legend(handles=shown, loc="outside upper left", ncols=len(shown), handlelength=1, labelcolor=QUIET)
    title = "Divergence by tensor, one column for each layer; the tables below hold all figures"
    return svg(figure, title)


def _draw_cell(axes: Axes, row: int, column: int, tensor: TensorQuality, edges: Sequence[float], width: float) -> None:
    value = tensor.divergence
    level = None if value is None else sum(edge <= value for edge in edges)
    fill, ink = ("none", QUIET) if level is None else (HEAT[level], HEAT_INK[level])
    edge = QUIET if level is None else "none"
    cell = axes.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=fill, edgecolor=edge, ls="--"))
    note(cell, escaped(f"{tensor.name}: {tensor.type}, {_size_and_divergence(tensor)}", limit=1000))
    size = min(10.5, (width - 5) / (0.62 * max(1, len(tensor.type))))
    axes.text(column, row, escaped(tensor.type), ha="center", va="center_baseline", color=ink, fontsize=size)


def _size_and_divergence(tensor: TensorQuality) -> str:
    divergence = "not measured" if tensor.divergence is None else f"{significant(tensor.divergence)} nats"
    return f"{megabytes(tensor.bytes)} MB, {divergence}{' (scaled)' if tensor.is_scaled else ''}"
