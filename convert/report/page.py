"""quality.html of a bundle: one page for people, without scripts, which loads nothing from anywhere."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..errors import escaped
from . import charts, numbers
from .quality import Quality, TensorQuality


def environment(*folders: Path) -> jinja2.Environment:
    """For pages, with the templates of further folders: text from outside is escaped, and made visible."""
    folder = Path(__file__).parent
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, *folders]),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = ("significant", "percent", "ratio", "megabytes", "perplexity_verdict", "right_answers", "points_gained")
    made.globals |= {name: getattr(numbers, name) for name in shown}
    made.globals["style"] = Markup((folder / "style.css").read_text("utf-8"))  # noqa: S704 - our own file
    return made


def render_page(quality: Quality) -> str:
    """The whole document; equal qualities give equal pages."""
    edges = charts.heat_edges(quality.tensors)
    measured = [tensor for tensor in quality.tensors if tensor.divergence is not None]
    context = {
        "quality": quality,
        "comparison": quality.comparison,
        "bundle": quality.bundle,
        "width": charts.WIDTH,
        "less_probable": numbers.significant(100 * (1 - math.exp(-quality.comparison.divergence.mean)), 2),
        "own": next(size for size in quality.sizes if size.is_own),
        "sizes": sorted(quality.sizes, key=lambda size: size.bytes),
        "size_chart": charts.size_chart(quality.sizes),
        "measured": len(measured),
        "scaled": sum(tensor.is_scaled for tensor in measured),
        "total": _total(measured),
        "tensor_chart": charts.tensor_chart(quality.tensors),
        "legend": list(enumerate([None, *edges])) if edges else [],
        "kinds": _kinds(quality.tensors),
    }
    return environment().get_template("quality.html.jinja").render(context)


def _visible(value: Any) -> Any:
    """Text from outside with control and direction characters written out, so that it cannot hide anything."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return escaped(value, limit=len("\\U0001f600") * len(value))


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
