"""quality.html of a bundle: one page for people, without scripts, which loads nothing from anywhere."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..errors import printable
from ..quantize.mix import mix_in_words
from . import charts, numbers, tensors
from .quality import Quality, Size, TensorQuality

FILE = "quality.html"
_TARGETS = {
    "armv8.0": "armv8.0 (Pi 4)",
    "armv8.2-dotprod": "armv8.2-dotprod (Pi 5, RK3588, Orin)",
    "armv8.6-i8mm": "armv8.6-i8mm (newer cores)",
    "any": "any (counted as armv8.2-dotprod: Pi 5, RK3588, Orin)",
}


def render_page(quality: Quality) -> str:
    """The whole document; equal qualities give equal pages."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        name: getattr(numbers, name)
        for name in (
            *("significant", "percent", "ratio", "megabytes", "round_number"),
            *("perplexity_verdict", "right_answers", "points_gained"),
        )
    }
    divergence = quality.comparison.divergence
    edges = charts.heat_edges(quality.tensors)
    own = next(size for size in quality.sizes if size.is_own)
    context = {
        "quality": quality,
        "comparison": quality.comparison,
        "bundle": quality.bundle,
        "style": Markup((folder / "style.css").read_text("utf-8")),  # noqa: S704 - our own file
        "heat_levels": charts.HEAT_LEVELS,
        "mean_and_error": numbers.value_and_error(divergence.mean, divergence.error),
        "less_probable": numbers.significant(100 * (1 - math.exp(-divergence.mean)), 2),
        "own": own,
        "sizes": sorted(quality.sizes, key=lambda size: size.bytes),
        "beside_others": _beside_others(own, quality.sizes),
        "size_charts": {name: charts.size_chart(quality.sizes, width) for name, width in charts.WIDTHS.items()},
        "largest_parts": _largest_parts(quality.tensors),
        "tensor_charts": {name: charts.tensor_chart(quality.tensors, width) for name, width in charts.WIDTHS.items()},
        "legend": [(charts.heat_level(at, len(edges)), edge) for at, edge in enumerate([None, *edges])]
        if edges
        else [],
        "kinds": _kinds(quality.tensors),
        "quantization": mix_in_words(quality.bundle.quantization, _bytes_by_type(quality.tensors)),
        "target": _TARGETS[quality.bundle.target],
    }
    return environment.get_template("quality.html.jinja").render(context)


def _visible(value: Any) -> Any:
    """Text from outside with control and direction characters written out, so that it cannot hide anything."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    longest = len("\\U0001f600")
    return numbers.NO_BREAK.join(printable(part, limit=longest * len(part)) for part in value.split(numbers.NO_BREAK))


def _bytes_by_type(all_tensors: Sequence[TensorQuality]) -> Counter[str]:
    nbytes = Counter[str]()
    for tensor in all_tensors:
        nbytes[tensor.type] += tensor.bytes
    return nbytes


def _beside_others(own: Size, sizes: Sequence[Size]) -> str:
    others = [size for size in sizes if not size.is_own and size.divergence]
    if not own.divergence or not others:
        return ""
    nearest = min(others, key=lambda size: abs(size.bytes - own.bytes))
    change, factor = own.bytes / nearest.bytes - 1, nearest.divergence / own.divergence
    size = "as large"
    if abs(change) >= 0.0005:
        size = f"{numbers.percent(abs(change))} {'larger' if change > 0 else 'smaller'}"
    text = (
        f"Nearest in size is {nearest.name}: this bundle is {size} and its divergence is "
        f"{numbers.significant(max(factor, 1 / factor), 2)} times {'smaller' if factor > 1 else 'larger'}."
    )
    better = [size.name for size in others if size.bytes <= own.bytes and size.divergence <= own.divergence]
    if better:
        return f"{text} Both smaller and closer: {', '.join(better)}."
    return f"{text} None of the others is both smaller and closer."


def _largest_parts(all_tensors: Sequence[TensorQuality]) -> dict[str, Any] | None:
    """How much of the sum of all divergences comes from how many tensors; None where none was measured."""
    found = [tensor for tensor in all_tensors if tensor.divergence is not None]
    if not found:
        return None
    scaled = sum(tensor.is_scaled for tensor in found)
    values = sorted((tensor.divergence or 0 for tensor in found), reverse=True)
    total, heaped, half = sum(values), 0.0, 0
    while heaped < total / 2:
        heaped, half = heaped + values[half], half + 1
    return {
        "scaled": scaled,
        "measured": len(found) - scaled,
        "total": total,
        "half": half,
        "count": sum(value > 0 for value in values),
        "largest": max(found, key=lambda tensor: tensor.divergence or 0).name,
        "largest_share": values[0] / total if total else 0.0,
    }


def _kinds(all_tensors: Sequence[TensorQuality]) -> list[tuple[str, ...]]:
    total = sum(tensor.divergence or 0 for tensor in all_tensors)
    rows: list[tuple[str, ...]] = []
    for kind, found in tensors.by_kind(all_tensors).items():
        known = [tensor.divergence for tensor in found if tensor.divergence is not None]
        rows.append(
            (
                kind,
                f"{len(found):,}",
                ", ".join(sorted({tensor.type for tensor in found})),
                numbers.megabytes(sum(tensor.bytes for tensor in found)),
                numbers.significant(sum(known) if known else None),
                numbers.percent(sum(known) / total if known and total else None),
            )
        )
    return rows
